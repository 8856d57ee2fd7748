// StoreImpl: loading sessions, and what only reads.
#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "base/status_macros.h"
#include "state_store/internal/cat.h"
#include "state_store/internal/local_store.h"
#include "state_store/internal/page_token.h"
#include "state_store/internal/validate.h"
#include "state_store/memory_store.h"
#include "state_store/redis/error.h"
#include "state_store/redis/store_commands.h"
#include "state_store/redis/store_impl.h"
#include "state_store/redis/store_scripts.h"

namespace reprise::state_store::redis {
namespace {

absl::StatusOr<std::shared_ptr<const SnapshotManifest>> ReadManifest(std::string_view key,
                                                                     const std::string& field,
                                                                     std::string_view sealed) {
  ASSIGN_OR_RETURN(const std::string_view bytes,
                   Unseal(key, field, sealed, StoreError::kCorruptManifest));
  ASSIGN_OR_RETURN(SnapshotManifest manifest, DecodeManifest(bytes));
  if (ManifestField(manifest.snapshot_id) != field) {
    return MakeStoreError(StoreError::kCorruptManifest,
                          Cat("field ", field, " of ", key, " is of another snapshot"));
  }
  return std::make_shared<const SnapshotManifest>(std::move(manifest));
}

absl::Status MissingManifest(std::string_view session_id, std::string_view snapshot_id) {
  return MakeStoreError(
      StoreError::kCorruptManifest,
      Cat("session ", session_id, ": the manifest of snapshot ", snapshot_id, " is missing"));
}

}  // namespace

absl::Status StoreImpl::ReadFields(std::string_view key, const std::vector<std::string>& fields,
                                   const std::vector<Reply>& values, Loaded& loaded) const {
  for (size_t i = 0; i < fields.size() && i < values.size(); ++i) {
    if (values[i].is_nil()) continue;
    const std::string& field = fields[i];
    const std::string& value = values[i].text;
    if (field == "rev") {
      loaded.rev = value;
    } else if (field == "r") {
      ASSIGN_OR_RETURN(const auto bytes, Unseal(key, field, value, StoreError::kCorruptIndex));
      ASSIGN_OR_RETURN(loaded.record, DecodeRecord(bytes));
      loaded.exists = true;
    } else if (field == "f") {
      ASSIGN_OR_RETURN(const auto bytes, Unseal(key, field, value, StoreError::kCorruptIndex));
      ASSIGN_OR_RETURN(loaded.creation, DecodeSession(bytes));
    } else if (field.substr(0, 2) == "q:") {
      ASSIGN_OR_RETURN(const auto bytes, Unseal(key, field, value, StoreError::kCorruptIndex));
      ASSIGN_OR_RETURN(RequestRecord request, DecodeRequest(bytes));
      const auto id = std::make_pair(request.kind, request.request_id);
      loaded.requests[id] = std::move(request);
    } else if (field == "@head" || field.substr(0, 2) == "m:") {
      // The alias goes by a plain field; the record says whether it led to the head.
      const std::string name =
          field == "@head" ? ManifestField(loaded.record.session.head_snapshot_id) : field;
      ASSIGN_OR_RETURN(const auto manifest, ReadManifest(key, name, value));
      loaded.manifests[manifest->snapshot_id] = manifest;
    }
  }
  if (loaded.rev.empty() == loaded.exists) {
    return MakeStoreError(StoreError::kCorruptIndex, Cat(key, ": half of the record is missing"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Loaded> StoreImpl::Load(std::string_view tenant, std::string_view session_id,
                                       const Wanted& wanted, Deadline deadline) {
  const std::string key = keys_.Session(tenant, session_id);
  std::vector<std::string> fields = {"rev", "r"};
  if (wanted.head) fields.push_back("@head");
  for (const std::string& id : wanted.snapshots) fields.push_back(ManifestField(id));
  if (wanted.request.has_value()) {
    fields.push_back(RequestField(wanted.request->first, wanted.request->second));
  }
  if (wanted.creation) fields.push_back("f");
  const Answer answer = client_->Run(Eval(kReadSession, key, fields), deadline);
  RETURN_IF_ERROR(answer.reply.status());
  ASSIGN_OR_RETURN(const auto* values, answer.reply->Array("read_session"));
  Loaded loaded;
  RETURN_IF_ERROR(ReadFields(key, fields, *values, loaded));
  if (!loaded.exists) return loaded;
  if (loaded.record.session.tenant != tenant || loaded.record.session.id != session_id) {
    return MakeStoreError(StoreError::kCorruptIndex, Cat(key, " holds another session"));
  }
  // Past its time a request is forgotten, whether or not it has been swept.
  const absl::Time before = Now() - options_.store.request_id_ttl;
  std::erase_if(loaded.requests, [&](const auto& item) { return item.second.time <= before; });
  if (wanted.request.has_value() && loaded.requests.count(*wanted.request) == 0) {
    // What is left of it gives way to its successor.
    std::erase_if(loaded.record.requests, [&](const RequestRow& row) {
      return row.kind == wanted.request->first && row.request_id == wanted.request->second;
    });
  }
  const auto have = [&](const std::string& id) {
    return loaded.manifests.count(id) != 0 || loaded.record.FindSnapshot(id) == nullptr;
  };
  for (const std::string& id : wanted.snapshots) {
    if (!have(id)) return MissingManifest(session_id, id);
  }
  const std::string& head = loaded.record.session.head_snapshot_id;
  if (wanted.head && !have(head)) return MissingManifest(session_id, head);
  return loaded;
}

absl::StatusOr<Loaded> StoreImpl::LoadVisible(std::string_view tenant, std::string_view session_id,
                                              std::string_view snapshot_id, Deadline deadline,
                                              SnapshotInfo* info) {
  Wanted wanted;
  wanted.head = snapshot_id.empty();
  if (!snapshot_id.empty()) wanted.snapshots = {std::string(snapshot_id)};
  ASSIGN_OR_RETURN(Loaded loaded, Load(tenant, session_id, wanted, deadline));
  SessionIndex index;
  if (loaded.exists) {
    RETURN_IF_ERROR(AddToIndex(loaded.record, loaded.manifests, loaded.requests, index));
  }
  ASSIGN_OR_RETURN(const SessionEntry* entry, FindLive(index, tenant, session_id, Now()));
  ASSIGN_OR_RETURN(const SnapshotEntry* snapshot, FindVisible(index, *entry, snapshot_id));
  *info = MakeInfo(*entry, *snapshot);
  return loaded;
}

absl::StatusOr<Session> StoreImpl::GetSession(std::string_view tenant,
                                              std::string_view session_id) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  ASSIGN_OR_RETURN(const Loaded loaded, Load(tenant, session_id, Wanted{}, NewDeadline()));
  SessionIndex index;
  if (loaded.exists) RETURN_IF_ERROR(AddToIndex(loaded.record, {}, {}, index));
  ASSIGN_OR_RETURN(const SessionEntry* entry, FindLive(index, tenant, session_id, Now()));
  return entry->session;
}

absl::StatusOr<SessionPage> StoreImpl::ListSessions(std::string_view tenant,
                                                    const PageRequest& page) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  ASSIGN_OR_RETURN(const size_t size, CheckedPageSize(page));
  const std::string scope = Cat("sessions/", tenant);
  std::string after;
  if (!page.page_token.empty()) {
    ASSIGN_OR_RETURN(after, ReadPageToken(page_key_, scope, page.page_token));
  }
  const Deadline deadline = NewDeadline();
  const absl::Time now = Now();
  SessionPage result;
  for (;;) {
    const size_t want = size + 1 - result.sessions.size();
    ASSIGN_OR_RETURN(const std::vector<std::string> ids,
                     ListedAfter(tenant, after, want, deadline));
    if (ids.empty()) return result;
    after = ids.back();
    std::vector<Command> commands;
    for (const std::string& id : ids) {
      commands.push_back(Eval(kReadSession, keys_.Session(tenant, id), {"rev", "r"}));
    }
    const std::vector<Answer> answers = client_->Run(commands, deadline);
    for (size_t i = 0; i < ids.size(); ++i) {
      RETURN_IF_ERROR(answers[i].reply.status());
      ASSIGN_OR_RETURN(const auto* values, answers[i].reply->Array("read_session"));
      Loaded loaded;
      RETURN_IF_ERROR(ReadFields(commands[i].key, {"rev", "r"}, *values, loaded));
      if (!loaded.exists || loaded.record.session.expires <= now) continue;
      if (result.sessions.size() == size) {
        result.next_page_token = MakePageToken(page_key_, scope, result.sessions.back().id);
        return result;
      }
      result.sessions.push_back(std::move(loaded.record.session));
    }
  }
}

absl::StatusOr<SnapshotInfo> StoreImpl::GetSnapshot(std::string_view tenant,
                                                    std::string_view session_id,
                                                    std::string_view snapshot_id) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  SnapshotInfo info;
  RETURN_IF_ERROR(LoadVisible(tenant, session_id, snapshot_id, NewDeadline(), &info).status());
  return info;
}

absl::StatusOr<std::optional<CommitRecord>> StoreImpl::FindCommit(std::string_view tenant,
                                                                  std::string_view session_id,
                                                                  std::string_view request_id) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  Wanted wanted;
  wanted.request = {RequestKind::kCommit, std::string(request_id)};
  ASSIGN_OR_RETURN(const Loaded loaded, Load(tenant, session_id, wanted, NewDeadline()));
  SessionIndex index;
  if (loaded.exists) {
    RETURN_IF_ERROR(AddToIndex(loaded.record, loaded.manifests, loaded.requests, index));
  }
  return FindRemembered(index, tenant, session_id, request_id, Now());
}

absl::StatusOr<Snapshot> StoreImpl::ReadSnapshot(std::string_view tenant,
                                                 std::string_view session_id,
                                                 std::string_view snapshot_id) {
  ASSIGN_OR_RETURN(Snapshot snapshot, ReadStored(tenant, session_id, snapshot_id));
  if (!options_.store.read_as_stored) RETURN_IF_ERROR(DecodeLossy(snapshot));
  return snapshot;
}

absl::StatusOr<Snapshot> StoreImpl::ReadStored(std::string_view tenant, std::string_view session_id,
                                               std::string_view snapshot_id) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  const Deadline deadline = NewDeadline();
  std::string failed_rev;
  for (;;) {
    SnapshotInfo info;
    ASSIGN_OR_RETURN(const Loaded loaded,
                     LoadVisible(tenant, session_id, snapshot_id, deadline, &info));
    auto payloads = chunks_.Read(tenant, info.manifest, deadline);
    if (payloads.ok()) {
      Remember(keys_.Session(tenant, session_id), loaded.rev, loaded.record, loaded.manifests);
      return Snapshot{std::move(info.manifest), *std::move(payloads)};
    }
    // The session may have let go of it while it was being read. If it has not, it is damaged.
    if (GetStoreError(payloads.status()) != StoreError::kCorruptChunk || loaded.rev == failed_rev) {
      return payloads.status();
    }
    failed_rev = loaded.rev;
  }
}

absl::StatusOr<SnapshotPage> StoreImpl::ListSnapshots(std::string_view tenant,
                                                      std::string_view session_id,
                                                      const PageRequest& page) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  ASSIGN_OR_RETURN(const size_t size, CheckedPageSize(page));
  const std::string scope = Cat("snapshots/", tenant.size(), "/", tenant, "/", session_id);
  uint64_t after = 0;
  if (!page.page_token.empty()) {
    ASSIGN_OR_RETURN(const std::string cursor, ReadPageToken(page_key_, scope, page.page_token));
    if (!absl::SimpleAtoi(cursor, &after)) {
      return MakeStoreError(StoreError::kInvalidPageToken, "page token has no position");
    }
  }
  const Deadline deadline = NewDeadline();
  Wanted wanted;
  for (;;) {
    // First without manifests, to see which ones the page needs.
    ASSIGN_OR_RETURN(const Loaded loaded, Load(tenant, session_id, wanted, deadline));
    SessionIndex index;
    if (loaded.exists) RETURN_IF_ERROR(AddToIndex(loaded.record, loaded.manifests, {}, index));
    ASSIGN_OR_RETURN(const SessionEntry* entry, FindLive(index, tenant, session_id, Now()));
    std::vector<SnapshotRow> rows = loaded.record.snapshots;
    std::erase_if(rows, [&](const SnapshotRow& row) { return row.order <= after; });
    std::sort(rows.begin(), rows.end(),
              [](const SnapshotRow& a, const SnapshotRow& b) { return a.order < b.order; });
    SnapshotPage result;
    if (rows.size() > size) {
      rows.resize(size);
      result.next_page_token = MakePageToken(page_key_, scope, Cat(rows.back().order));
    }
    wanted.snapshots.clear();
    bool complete = true;
    for (const SnapshotRow& row : rows) {
      wanted.snapshots.push_back(row.id);
      complete = complete && loaded.manifests.count(row.id) != 0;
      if (complete) {
        result.snapshots.push_back(MakeInfo(*entry, *index.FindSnapshot(tenant, row.id)));
      }
    }
    if (complete) return result;
  }
}

StoreOptions StoreImpl::OptionsForCopies() const {
  StoreOptions options = options_.store;
  options.max_stored_bytes = 0;
  options.lossy.clear();
  options.read_as_stored = true;
  return options;
}

absl::Status StoreImpl::ExportSnapshot(std::string_view tenant, std::string_view session_id,
                                       std::string_view snapshot_id, ByteSink& sink) {
  ASSIGN_OR_RETURN(const Snapshot snapshot, ReadStored(tenant, session_id, snapshot_id));
  // The embedded store knows the stream; it gives the snapshot another id, which every import does.
  ASSIGN_OR_RETURN(const auto memory, CreateMemoryStore(OptionsForCopies()));
  ASSIGN_OR_RETURN(const Session session, memory->CreateSession(tenant, {}));
  RETURN_IF_ERROR(memory->PutAndCommit(tenant, session.id, session.version, snapshot, {}).status());
  return memory->ExportSnapshot(tenant, session.id, "", sink);
}

absl::StatusOr<StoreStats> StoreImpl::Stats(std::string_view tenant) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  StoreStats stats;
  SessionIndex index;
  std::string after;
  for (;;) {
    ASSIGN_OR_RETURN(const std::vector<std::string> ids,
                     ListedAfter(tenant, after, 100, NewDeadline()));
    if (ids.empty()) break;
    after = ids.back();
    for (const std::string& id : ids) {
      Loaded loaded;
      RETURN_IF_ERROR(LoadAll(keys_.Session(tenant, id), loaded, NewDeadline()));
      if (!loaded.exists) continue;
      ++stats.sessions;
      for (const auto& [snapshot_id, manifest] : loaded.manifests) {
        if (index.FindSnapshot(tenant, snapshot_id) != nullptr) continue;
        std::vector<ChunkRef> freed;
        RETURN_IF_ERROR(index.Apply({{PutSnapshot{1, manifest}}}, &freed));
      }
    }
  }
  if (const TenantEntry* entry = index.FindTenant(tenant)) {
    stats.snapshots = entry->snapshots.size();
    stats.chunks = entry->chunks.size();
    stats.logical_bytes = entry->logical_bytes;
    stats.stored_bytes = entry->stored_bytes;
  }
  return stats;
}

absl::StatusOr<StoreUsage> StoreImpl::Usage(std::string_view tenant) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  const Deadline deadline = NewDeadline();
  const Answer sessions = client_->Run(Plain({"ZCARD", keys_.Index(tenant)}), deadline);
  RETURN_IF_ERROR(sessions.reply.status());
  ASSIGN_OR_RETURN(const Counters counters, ReadCounters(tenant, deadline));
  StoreUsage usage;
  usage.sessions = static_cast<uint64_t>(sessions.reply->integer);
  usage.stored_bytes = static_cast<uint64_t>(std::max<int64_t>(counters.bytes, 0));
  return usage;
}

}  // namespace reprise::state_store::redis
