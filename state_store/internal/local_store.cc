#include "state_store/internal/local_store.h"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "absl/base/internal/raw_logging.h"
#include "absl/strings/numbers.h"
#include "base/fault_point.h"
#include "base/status_macros.h"
#include "state_store/chunking.h"
#include "state_store/internal/cat.h"
#include "state_store/internal/page_token.h"
#include "state_store/internal/validate.h"
#include "state_store/memory_store.h"

namespace reprise::state_store {

absl::Status CheckPayloads(const Snapshot& snapshot) {
  const std::vector<SnapshotPart>& parts = snapshot.manifest.parts;
  if (parts.size() != snapshot.payloads.size()) {
    return MakeStoreError(
        StoreError::kInvalidArgument,
        Cat("snapshot has ", parts.size(), " parts but ", snapshot.payloads.size(), " payloads"));
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    if (parts[i].byte_length != snapshot.payloads[i].size()) {
      return MakeStoreError(StoreError::kInvalidArgument,
                            Cat("part \"", parts[i].name, "\" says ", parts[i].byte_length,
                                " bytes, its payload has ", snapshot.payloads[i].size()));
    }
  }
  // A copy may bring parts that are encoded already; then they must be so that they can be read.
  const absl::Status lossy = CheckLossy(snapshot.manifest);
  if (lossy.ok()) return lossy;
  return MakeStoreError(StoreError::kInvalidArgument,
                        std::string_view(lossy.message().data(), lossy.message().size()));
}

std::string MakeFreshId() {
  // Not std::random_device: making one asks the processor what it can do, which costs a virtual
  // machine tens of microseconds.
  std::array<unsigned char, 16> bytes{};
  for (size_t have = 0; have < bytes.size();) {
    const ssize_t n = ::getrandom(bytes.data() + have, bytes.size() - have, 0);
    if (n > 0) have += static_cast<size_t>(n);
    ABSL_RAW_CHECK(n > 0 || errno == EINTR, "the system gives no random bytes");
  }
  std::string id;
  for (const unsigned char byte : bytes) absl::StrAppend(&id, absl::Hex(byte, absl::kZeroPad2));
  return id;
}

std::string MakeSnapshotId() { return MakeFreshId(); }

absl::StatusOr<std::string> SnapshotIdOr(std::string_view chosen) {
  if (chosen.empty()) return MakeFreshId();
  if (chosen.size() != 32 || chosen.find_first_not_of("0123456789abcdef") != chosen.npos) {
    return MakeStoreError(StoreError::kInvalidArgument,
                          "snapshot_id must be 32 hexadecimal digits");
  }
  return std::string(chosen);
}

absl::StatusOr<size_t> CheckedPageSize(const PageRequest& page) {
  if (page.page_size < 0) {
    return MakeStoreError(StoreError::kInvalidArgument, "page_size is negative");
  }
  return page.page_size == 0 ? 100 : std::min(page.page_size, 1000);
}

absl::Status ValidateStoreOptions(const StoreOptions& options) {
  const auto refuse = [](std::string_view what) {
    return MakeStoreError(StoreError::kInvalidArgument, Cat("store option ", what));
  };
  if (options.chunk_bytes < 1 || options.chunk_bytes > kMaxChunkBytes) return refuse("chunk_bytes");
  if (options.codec != ChunkCodec::kRaw && options.codec != ChunkCodec::kZstd) {
    return refuse("codec");
  }
  if (options.zstd_level < 1 || options.zstd_level > 19) return refuse("zstd_level");
  if (options.request_ids_per_session < 1) return refuse("request_ids_per_session");
  if (options.request_id_ttl <= absl::ZeroDuration()) return refuse("request_id_ttl");
  if (options.clock == nullptr) return refuse("clock");
  for (const LossyRule& rule : options.lossy) {
    if (rule.role.empty() || rule.role.find('.') != std::string::npos) return refuse("lossy");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<SessionStore>> CreateMemoryStore(const StoreOptions& options) {
  RETURN_IF_ERROR(ValidateStoreOptions(options));
  return std::make_unique<LocalStore>(options, MakeMemoryBackend(), SessionIndex(),
                                      absl::flat_hash_set<Sha256Digest>(), absl::ZeroDuration());
}

LocalStore::LocalStore(const StoreOptions& options, std::unique_ptr<LocalBackend> backend,
                       SessionIndex index, const absl::flat_hash_set<Sha256Digest>& damaged,
                       absl::Duration flush_interval)
    : options_(options),
      page_key_(options.page_token_key.empty() ? MakeFreshId() : options.page_token_key),
      backend_(std::move(backend)),
      pool_(*backend_, options_),
      index_(std::move(index)) {
  for (const auto& [name, tenant] : index_.tenants()) {
    for (const auto& [digest, chunk] : tenant.chunks) {
      pool_.Adopt(chunk.ref, damaged.contains(digest));
    }
  }
  if (flush_interval > absl::ZeroDuration()) {
    flusher_ = std::thread([this, flush_interval] { RunFlusher(flush_interval); });
  }
}

LocalStore::~LocalStore() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  if (flusher_.joinable()) flusher_.join();
  if (backend_->Flush().ok()) pool_.Collect();
  // The empty mutation marks a clean close. A failing device leaves what a crash would.
  absl::MutexLock lock(&commit_mu_);
  if (backend_->compaction() != Compaction::kRequired) {
    backend_->Append(*EncodeMutation({}), /*sync=*/true).IgnoreError();
  }
}

void LocalStore::RunFlusher(absl::Duration interval) {
  for (;;) {
    {
      absl::MutexLock lock(&mu_);
      if (mu_.AwaitWithTimeout(absl::Condition(&stopping_), interval)) return;
    }
    // Failures are not lost: the log stays unflushed, and the next SYNC commit meets them again.
    if (backend_->Flush().ok()) pool_.Collect();
    absl::MutexLock lock(&commit_mu_);
    if (backend_->compaction() != Compaction::kNone) Compact().IgnoreError();
  }
}

absl::Time LocalStore::Now() const {
  // Whole microseconds, so that what is returned now equals what is read back later.
  return absl::FromUnixMicros(absl::ToUnixMicros(options_.clock()));
}

CommitRequest LocalStore::MakeRequest(std::string_view tenant, std::string_view session_id,
                                      uint64_t expected_version,
                                      std::string_view request_id) const {
  return {tenant, session_id, expected_version, request_id, options_.request_ids_per_session,
          Now()};
}

absl::Status LocalStore::Compact() {
  std::vector<std::string> records;
  {
    absl::ReaderMutexLock lock(&mu_);
    for (const Mutation& mutation : index_.Dump()) {
      ASSIGN_OR_RETURN(std::string record, EncodeMutation(mutation));
      records.push_back(std::move(record));
    }
  }
  return backend_->Compact(records);
}

absl::Status LocalStore::LogAndApply(const Mutation& mutation, Durability durability) {
  const Compaction compaction = backend_->compaction();
  if (compaction != Compaction::kNone) {
    const absl::Status compacted = Compact();
    if (compaction == Compaction::kRequired) RETURN_IF_ERROR(compacted);
  }
  ASSIGN_OR_RETURN(const std::string record, EncodeMutation(mutation));
  RETURN_IF_ERROR(backend_->Append(record, durability == Durability::kSync));
  std::vector<ChunkRef> freed;
  {
    absl::MutexLock lock(&mu_);
    const absl::Status applied = index_.Apply(mutation, &freed);
    // Planned on this very index under commit_mu_, so a misfit is a bug of ours, already logged.
    ABSL_RAW_CHECK(applied.ok(), "state_store: planned mutation does not fit the index");
    for (const Op& op : mutation.ops) {
      if (const auto* put = std::get_if<PutSnapshot>(&op)) pool_.Commit(*put->manifest);
    }
  }
  REPRISE_FAULT_POINT("disk.applied");
  pool_.Free(freed, backend_->appended());
  return absl::OkStatus();
}

absl::StatusOr<Session> LocalStore::Mutate(const Planner& planner, Durability durability) {
  absl::StatusOr<Session> result = [&]() -> absl::StatusOr<Session> {
    absl::MutexLock lock(&commit_mu_);
    Plan plan;
    {
      absl::ReaderMutexLock read(&mu_);
      ASSIGN_OR_RETURN(plan, planner(index_));
    }
    if (!plan.mutation.ops.empty()) {
      RETURN_IF_ERROR(LogAndApply(plan.mutation, durability));
    }
    return std::move(plan.session);
  }();
  pool_.Collect();
  return result;
}

absl::StatusOr<Session> LocalStore::CreateSession(std::string_view tenant,
                                                  const NewSessionOptions& options) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  const std::string fresh_id = MakeFreshId();
  return Mutate(
      [&](const SessionIndex& index) {
        return PlanCreate(index, tenant, options, Origin{}, fresh_id, Now());
      },
      Durability::kAsync);
}

absl::StatusOr<Session> LocalStore::Fork(std::string_view tenant, const ForkSource& source,
                                         const NewSessionOptions& options) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  const std::string fresh_id = MakeFreshId();
  return Mutate(
      [&](const SessionIndex& index) {
        return PlanCreate(index, tenant, options, Origin{RequestKind::kFork, source}, fresh_id,
                          Now());
      },
      Durability::kAsync);
}

absl::StatusOr<Session> LocalStore::GetSession(std::string_view tenant,
                                               std::string_view session_id) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  absl::ReaderMutexLock lock(&mu_);
  ASSIGN_OR_RETURN(const SessionEntry* entry, FindLive(index_, tenant, session_id, Now()));
  return entry->session;
}

absl::StatusOr<SessionPage> LocalStore::ListSessions(std::string_view tenant,
                                                     const PageRequest& page) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  ASSIGN_OR_RETURN(const size_t size, CheckedPageSize(page));
  const std::string scope = Cat("sessions/", tenant);
  std::string after;
  if (!page.page_token.empty()) {
    ASSIGN_OR_RETURN(after, ReadPageToken(page_key_, scope, page.page_token));
  }
  SessionPage result;
  const absl::Time now = Now();
  absl::ReaderMutexLock lock(&mu_);
  const TenantEntry* entry = index_.FindTenant(tenant);
  if (entry == nullptr) return result;
  for (auto it = entry->sessions.upper_bound(after); it != entry->sessions.end(); ++it) {
    if (it->second.session.expires <= now) continue;
    if (result.sessions.size() == size) {
      result.next_page_token = MakePageToken(page_key_, scope, result.sessions.back().id);
      break;
    }
    result.sessions.push_back(it->second.session);
  }
  return result;
}

absl::StatusOr<Session> LocalStore::UpdateSession(std::string_view tenant,
                                                  std::string_view session_id,
                                                  const SessionUpdate& update) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  return Mutate(
      [&](const SessionIndex& index) {
        return PlanUpdate(index, tenant, session_id, update, Now());
      },
      Durability::kAsync);
}

absl::Status LocalStore::DeleteSession(std::string_view tenant, std::string_view session_id) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  return Mutate([&](const SessionIndex& index) { return PlanDelete(index, tenant, session_id); },
                Durability::kAsync)
      .status();
}

absl::Status LocalStore::StorePart(std::string_view tenant, std::string_view bytes,
                                   SnapshotPart& part, ChunkPins& pins) {
  for (const std::string_view raw : CutIntoChunks(bytes, options_.chunk_bytes)) {
    if (part.chunks.size() == kMaxChunksPerPart) {
      return MakeStoreError(StoreError::kInvalidArgument,
                            Cat("part \"", part.name, "\" has too many chunks"));
    }
    ASSIGN_OR_RETURN(ChunkRef ref, pool_.Store(tenant, raw, pins));
    part.chunks.push_back(ref);
  }
  return absl::OkStatus();
}

absl::StatusOr<Session> LocalStore::PutAndCommit(std::string_view tenant,
                                                 std::string_view session_id,
                                                 uint64_t expected_version,
                                                 const Snapshot& snapshot,
                                                 const CommitOptions& options) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  RETURN_IF_ERROR(ValidateNewManifest(snapshot.manifest));
  RETURN_IF_ERROR(CheckPayloads(snapshot));
  if (options.replicas > 0) {
    return MakeStoreError(StoreError::kInvalidArgument, "replicas: this store has none");
  }
  CommitRequest request = MakeRequest(tenant, session_id, expected_version, options.request_id);
  request.note = options.note;
  request.now = std::min(request.now, options.accepted);
  auto manifest = std::make_shared<SnapshotManifest>(snapshot.manifest);
  {
    // Before any byte is written: the loser of a race, and a repeat, should cost nothing.
    absl::ReaderMutexLock lock(&mu_);
    ASSIGN_OR_RETURN(Plan check,
                     PlanCommit(index_, request, manifest->model_id, nullptr, options.keep));
    if (check.session.version != 0) return std::move(check.session);
    manifest->parent_snapshot_id = index_.FindSession(tenant, session_id)->session.head_snapshot_id;
  }
  manifest->format_version = kManifestVersion;
  ASSIGN_OR_RETURN(manifest->snapshot_id, SnapshotIdOr(options.snapshot_id));
  manifest->tenant = tenant;
  manifest->created_at = request.now;
  absl::StatusOr<Session> result = [&]() -> absl::StatusOr<Session> {
    ChunkPins pins(pool_);
    ASSIGN_OR_RETURN(const EncodedPayloads payloads,
                     EncodeLossy(options_.lossy, snapshot.payloads, manifest->parts));
    for (size_t i = 0; i < manifest->parts.size(); ++i) {
      manifest->parts[i].chunks.clear();
      RETURN_IF_ERROR(StorePart(tenant, payloads.views[i], manifest->parts[i], pins));
    }
    REPRISE_FAULT_POINT("disk.commit.stored");
    // If the version still fits, so does parent_snapshot_id: the head moves with the version only.
    return Mutate(
        [&](const SessionIndex& index) {
          request.now = std::min(Now(), options.accepted);
          return PlanCommit(index, request, manifest->model_id, manifest, options.keep);
        },
        options.durability);
  }();
  // A failed commit has just let go of the chunks that it wrote.
  if (!result.ok()) pool_.Collect();
  return result;
}

absl::StatusOr<std::optional<CommitRecord>> LocalStore::FindCommit(std::string_view tenant,
                                                                   std::string_view session_id,
                                                                   std::string_view request_id) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  absl::ReaderMutexLock lock(&mu_);
  return FindRemembered(index_, tenant, session_id, request_id, Now());
}

absl::StatusOr<Session> LocalStore::Rewind(std::string_view tenant, std::string_view session_id,
                                           std::string_view snapshot_id, uint64_t expected_version,
                                           std::string_view request_id) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  CommitRequest request = MakeRequest(tenant, session_id, expected_version, request_id);
  return Mutate([&](const SessionIndex& index) { return PlanRewind(index, request, snapshot_id); },
                Durability::kAsync);
}

}  // namespace reprise::state_store
