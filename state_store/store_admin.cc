#include "state_store/store_admin.h"

#include <algorithm>

#include "base/status_macros.h"
#include "state_store/internal/cat.h"
#include "state_store/internal/validate.h"

namespace reprise::state_store {
namespace {

constexpr int kAttempts = 3;

bool SameSnapshots(const std::vector<SnapshotInfo>& a, const std::vector<SnapshotInfo>& b) {
  return std::equal(
      a.begin(), a.end(), b.begin(), b.end(), [](const SnapshotInfo& x, const SnapshotInfo& y) {
        // Chunks may be cut otherwise; what they are of is not.
        return x.manifest.snapshot_id == y.manifest.snapshot_id &&
               x.manifest.position == y.manifest.position &&
               x.manifest.token_hash == y.manifest.token_hash && x.is_head == y.is_head &&
               x.retained == y.retained && x.is_origin == y.is_origin;
      });
}

bool Same(const SessionCopy& a, const SessionCopy& b) {
  return a.session == b.session && SameSnapshots(a.snapshots, b.snapshots);
}

}  // namespace

absl::Status ValidateSessionCopy(const SessionCopy& copy) {
  const Session& session = copy.session;
  RETURN_IF_ERROR(ValidateTenant(session.tenant));
  RETURN_IF_ERROR(ValidateModelId(session.model_id));
  RETURN_IF_ERROR(ValidateLabels(session.labels));
  const auto refuse = [&](std::string_view problem) {
    return MakeStoreError(StoreError::kInvalidArgument,
                          Cat("copy of session \"", session.id, "\" ", problem));
  };
  if (!IsValidSessionId(session.id)) return refuse("has a bad id");
  if (session.version == 0) return refuse("has no version");
  size_t heads = 0;
  for (const SnapshotInfo& info : copy.snapshots) {
    heads += info.is_head;
    if (info.is_head != (info.manifest.snapshot_id == session.head_snapshot_id) ||
        (info.is_origin && info.manifest.snapshot_id != session.parent_snapshot_id) ||
        !(info.is_head || info.retained || info.is_origin)) {
      return refuse("does not fit its snapshots");
    }
  }
  if (heads != (session.head_snapshot_id.empty() ? 0 : 1)) return refuse("lacks its head");
  return absl::OkStatus();
}

absl::StatusOr<SessionCopy> DescribeSession(SessionStore& store, std::string_view tenant,
                                            std::string_view session_id) {
  for (int attempt = 1;; ++attempt) {
    SessionCopy copy;
    ASSIGN_OR_RETURN(copy.session, store.GetSession(tenant, session_id));
    PageRequest page;
    do {
      ASSIGN_OR_RETURN(SnapshotPage snapshots, store.ListSnapshots(tenant, session_id, page));
      for (SnapshotInfo& info : snapshots.snapshots) copy.snapshots.push_back(std::move(info));
      page.page_token = snapshots.next_page_token;
    } while (!page.page_token.empty());
    ASSIGN_OR_RETURN(const Session again, store.GetSession(tenant, session_id));
    if (again == copy.session && ValidateSessionCopy(copy).ok()) return copy;
    if (attempt == kAttempts) {
      return MakeStoreError(StoreError::kVersionMismatch,
                            Cat("session ", session_id, " keeps changing"));
    }
  }
}

absl::StatusOr<CopyOutcome> CopySession(SessionStore& from, SessionStore& to,
                                        std::string_view tenant, std::string_view session_id) {
  auto* admin = dynamic_cast<StoreAdmin*>(&to);
  if (admin == nullptr) return absl::UnimplementedError("the target store takes no copies");
  ASSIGN_OR_RETURN(const SessionCopy source, DescribeSession(from, tenant, session_id));
  const absl::StatusOr<SessionCopy> there = DescribeSession(to, tenant, session_id);
  CopyOutcome outcome = CopyOutcome::kAlreadyThere;
  if (absl::IsNotFound(there.status())) {
    RETURN_IF_ERROR(admin
                        ->RestoreSession(source,
                                         [&](const std::string& snapshot_id) {
                                           return from.ReadSnapshot(tenant, session_id,
                                                                    snapshot_id);
                                         })
                        .status());
    outcome = CopyOutcome::kCopied;
  } else {
    RETURN_IF_ERROR(there.status());
    if (!Same(source, *there)) {
      return MakeStoreError(
          StoreError::kSessionExists,
          Cat("the target has another session \"", session_id, "\", at version ",
              there->session.version, "; the source's is at ", source.session.version));
    }
  }
  ASSIGN_OR_RETURN(const SessionCopy copied, DescribeSession(to, tenant, session_id));
  if (!Same(source, copied)) {
    return MakeStoreError(StoreError::kVersionMismatch,
                          Cat("session ", session_id, " was changed in the target"));
  }
  for (const SnapshotInfo& info : source.snapshots) {
    RETURN_IF_ERROR(to.ReadSnapshot(tenant, session_id, info.manifest.snapshot_id).status());
  }
  return outcome;
}

}  // namespace reprise::state_store
