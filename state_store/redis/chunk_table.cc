#include "state_store/redis/chunk_table.h"

#include <algorithm>
#include <cstdio>
#include <set>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "base/fault_point.h"
#include "base/hash.h"
#include "base/status_macros.h"
#include "state_store/chunking.h"
#include "state_store/internal/cat.h"
#include "state_store/redis/error.h"
#include "state_store/redis/store_scripts.h"
#include "state_store/store_error.h"

namespace reprise::state_store::redis {
namespace {

// Of chunks in one pipeline.
constexpr size_t kBatchBytes = 8 << 20;
// Of one round trip of what is being named at the same time.
constexpr size_t kStreamBytes = 512 << 10;
// That are named before they are handed to a pipeline that is on its way.
constexpr size_t kMadeBytes = 64 << 10;

// The fewest replicas over several calls.
class ReplicationSum {
 public:
  explicit ReplicationSum(Replication* total) : total_(total) {
    if (total != nullptr) one_ = *total;
  }
  Replication* one() { return total_ == nullptr ? nullptr : &one_; }
  void Add() {
    if (total_ != nullptr) total_->reached = std::min(total_->reached, one_.reached);
  }

 private:
  Replication* total_;
  Replication one_;
};

absl::Status ReadStamp(const Reply& stamp, uint64_t& oldest) {
  uint64_t value = 0;
  if (!absl::SimpleAtoi(stamp.text, &value) || value == 0) {
    return MakeRedisError(RedisError::kProtocol, Outcome::kUnknown, "chunk script: bad stamp");
  }
  oldest = oldest == 0 ? value : std::min(oldest, value);
  return absl::OkStatus();
}

std::vector<ChunkRef> DistinctChunks(const SnapshotManifest& manifest) {
  std::vector<ChunkRef> chunks;
  std::set<Sha256Digest> seen;
  for (const SnapshotPart& part : manifest.parts) {
    for (const ChunkRef& ref : part.chunks) {
      if (seen.insert(ref.digest).second) chunks.push_back(ref);
    }
  }
  return chunks;
}

}  // namespace

absl::Status CorruptChunk(const Sha256Digest& digest, std::string_view problem) {
  return MakeStoreError(StoreError::kCorruptChunk, Cat("chunk ", HexDigest(digest), " ", problem));
}

// Of one call.
struct ChunkTable::Progress {
  Replication* replication = nullptr;
  uint64_t oldest = 0;  // stamp
  bool held = false;
};

std::string ChunkTable::HeaderOf(std::string_view key, const ChunkRef& ref) {
  const std::string fields = absl::StrFormat("1 %d %d %d %016x ", static_cast<int>(ref.codec),
                                             ref.raw_length, ref.stored_length, ref.checksum);
  return Cat(fields, absl::StrFormat("%016x", Checksum64(Cat(key, " ", fields))));
}

bool ChunkTable::ParseHeader(std::string_view key, std::string_view header, ChunkRef& ref) {
  const size_t last = header.rfind(' ');
  if (last == std::string_view::npos) return false;
  const std::string_view fields = header.substr(0, last + 1);
  if (header.substr(last + 1) != absl::StrFormat("%016x", Checksum64(Cat(key, " ", fields)))) {
    return false;
  }
  // Guarded by the checksum, so only a version that we do not know can fail from here on.
  unsigned version = 0, codec = 0;
  unsigned long long checksum = 0;
  if (std::sscanf(std::string(fields).c_str(), "%u %u %u %u %16llx ", &version, &codec,
                  &ref.raw_length, &ref.stored_length, &checksum) != 5 ||
      version != 1 || codec > static_cast<unsigned>(ChunkCodec::kZstd)) {
    return false;
  }
  ref.codec = static_cast<ChunkCodec>(codec);
  ref.checksum = checksum;
  return true;
}

bool ChunkTable::ReadHeader(std::string_view header, Piece& piece) {
  ChunkRef found = piece.ref;
  // Other bytes under the same address would be a collision, or a forgery.
  if (!ParseHeader(piece.key, header, found) || found.checksum != piece.ref.checksum ||
      found.raw_length != piece.ref.raw_length) {
    return false;
  }
  piece.ref = found;
  return true;
}

absl::Status ChunkTable::ReadPinned(const Answer& answer, Piece& piece, Progress& progress) {
  RETURN_IF_ERROR(answer.reply.status());
  ASSIGN_OR_RETURN(const auto* fields, answer.reply->Array("pin_chunk", 3));
  RETURN_IF_ERROR(ReadStamp((*fields)[2], progress.oldest));
  const std::string& header = (*fields)[1].text;
  piece.missing = (*fields)[0].integer != 1 || !ReadHeader(header, piece);
  if (piece.missing) piece.old_header = header;
  return absl::OkStatus();
}

absl::Status ChunkTable::ReadPut(const Answer& answer, Piece& piece, Progress& progress) {
  RETURN_IF_ERROR(answer.reply.status());
  ASSIGN_OR_RETURN(const auto* fields, answer.reply->Array("put_chunk", 2));
  const std::string& header = (*fields)[1].text;
  if ((*fields)[0].integer != 1 || fields->size() < 5) {
    piece.old_header = header;
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(ReadStamp((*fields)[2], progress.oldest));
  // Somebody else may have brought it meanwhile, in another form.
  if (!ReadHeader(header, piece)) {
    return CorruptChunk(piece.ref.digest, "has a damaged header, or one of other bytes");
  }
  piece.missing = false;
  return absl::OkStatus();
}

absl::Status ChunkTable::Reserve(const PinScope& scope, int64_t bytes) {
  if (options_.max_stored_bytes == 0 || bytes == 0) return absl::OkStatus();
  const Answer answer = client_.Run(
      Eval(kReserveBytes, keys_.Bytes(scope.tenant), {Cat(bytes), Cat(options_.max_stored_bytes)}),
      scope.deadline);
  RETURN_IF_ERROR(answer.reply.status());
  ASSIGN_OR_RETURN(const auto* fields, answer.reply->Array("reserve_bytes", 1));
  if ((*fields)[0].integer == 1) return absl::OkStatus();
  return MakeStoreError(
      StoreError::kStoreFull,
      Cat(bytes, " bytes more do not fit under the cap of ", options_.max_stored_bytes));
}

Command ChunkTable::Counting(const Script& script, std::string_view tenant, std::string key,
                             std::vector<std::string> arguments) const {
  if (is_cluster_) return Eval(script, std::move(key), std::move(arguments));
  return EvalKeys(script, {std::move(key), keys_.Counters(tenant)}, std::move(arguments));
}

absl::Status ChunkTable::Count(std::string_view tenant, int64_t bytes, Deadline deadline) {
  if (!is_cluster_ || bytes == 0) return absl::OkStatus();
  return client_.Run(Eval(kCount, keys_.Counters(tenant), {Cat(bytes), ""}), deadline)
      .reply.status();
}

absl::Status ChunkTable::Encode(Piece& piece) const {
  ChunkRef old;
  // Manifests describe the damaged bytes, so only equal ones can take their place.
  const bool heal = ParseHeader(piece.key, piece.old_header, old);
  const ChunkCodec codec = heal ? old.codec : options_.codec;
  ASSIGN_OR_RETURN(piece.encoded, EncodeChunk(piece.raw, codec, options_.zstd_level));
  piece.ref.codec = piece.encoded.codec;
  piece.ref.raw_length = static_cast<uint32_t>(piece.raw.size());
  piece.ref.stored_length = static_cast<uint32_t>(piece.stored().size());
  piece.header = HeaderOf(piece.key, piece.ref);
  if (heal && piece.header != piece.old_header) {
    return CorruptChunk(piece.ref.digest, "is damaged and cannot be written as it was");
  }
  return absl::OkStatus();
}

absl::Status ChunkTable::Exchange(const PinScope& scope, const std::vector<Piece*>& puts,
                                  const std::vector<Piece*>& pins, Progress& progress) {
  const std::string pin(scope.pin), session_id(scope.session_id);
  std::vector<Command> commands;
  const bool take = !progress.held;
  if (take) {
    commands.push_back(Eval(kHold, keys_.Hold(scope.tenant, scope.pin),
                            {"take", std::string(scope.user), session_id}));
  }
  int64_t reserved = 0;
  for (Piece* piece : puts) {
    RETURN_IF_ERROR(Encode(*piece));
    reserved += piece->ref.stored_length;
    // The bytes go beside the script: through one they would be copied four times.
    commands.push_back(
        {.arguments = {"HSETNX", piece->key, "d"}, .tail = piece->stored(), .key = piece->key});
    commands.push_back(
        Counting(kSealChunk, scope.tenant, piece->key, {pin, session_id, piece->header}));
  }
  for (const Piece* piece : pins) {
    commands.push_back(Eval(kPinChunk, piece->key, {pin, session_id}));
  }
  RETURN_IF_ERROR(Reserve(scope, reserved));
  ReplicationSum replicas(progress.replication);
  const std::vector<Answer> answers = client_.Run(commands, scope.deadline, replicas.one());
  replicas.Add();
  REPRISE_FAULT_POINT("redis.chunks.asked");
  size_t next = 0;
  int64_t count = 0;
  absl::Status failure = absl::OkStatus();
  if (take) {
    const Answer& held = answers[next++];
    failure.Update(held.reply.status());
    if (held.reply.ok()) {
      ASSIGN_OR_RETURN(const auto* fields, held.reply->Array("hold", 2));
      failure.Update(ReadStamp((*fields)[1], progress.oldest));
      progress.held = true;
    }
  }
  for (Piece* piece : puts) {
    failure.Update(answers[next++].reply.status());
    const Answer& sealed = answers[next++];
    failure.Update(ReadPut(sealed, *piece, progress));
    if (piece->missing) continue;
    reserved -= sealed.reply->elements[3].integer;
    count += sealed.reply->elements[4].integer;
  }
  for (Piece* piece : pins) failure.Update(ReadPinned(answers[next++], *piece, progress));
  Reserve(scope, -reserved).IgnoreError();
  Count(scope.tenant, count, scope.deadline).IgnoreError();
  return failure;
}

absl::Status ChunkTable::Replace(const PinScope& scope, Piece& piece, Progress& progress) {
  RETURN_IF_ERROR(Encode(piece));
  int64_t reserved = piece.ref.stored_length;
  RETURN_IF_ERROR(Reserve(scope, reserved));
  ReplicationSum replicas(progress.replication);
  Command command = Counting(
      kPutChunk, scope.tenant, piece.key,
      {std::string(scope.pin), std::string(scope.session_id), piece.header, piece.old_header});
  command.tail = piece.stored();
  const Answer answer = client_.Run(command, scope.deadline, replicas.one());
  replicas.Add();
  const absl::Status put = ReadPut(answer, piece, progress);
  if (!piece.missing) {
    reserved -= answer.reply->elements[3].integer;
    Count(scope.tenant, answer.reply->elements[4].integer, scope.deadline).IgnoreError();
  }
  Reserve(scope, -reserved).IgnoreError();
  RETURN_IF_ERROR(put);
  if (!piece.missing) return absl::OkStatus();
  return CorruptChunk(piece.ref.digest, "is damaged and is described otherwise");
}

absl::StatusOr<std::unique_ptr<SnapshotChunks>> ChunkTable::Cut(
    std::string_view tenant, const std::vector<std::string_view>& payloads,
    const std::vector<SnapshotPart>& parts, const SnapshotManifest* there) const {
  return SnapshotChunks::Create(keys_, tenant, payloads, parts, options_.chunk_bytes, there);
}

absl::Status ChunkTable::Prepare(SnapshotChunks& chunks, PreparedChunks& prepared,
                                 std::vector<Command>& commands) const {
  std::vector<Piece*> puts, pins;
  chunks.Next(kMadeBytes, kBatchCommands, puts, pins);
  for (Piece* piece : puts) {
    RETURN_IF_ERROR(Encode(*piece));
    prepared.keys.push_back(piece->key);
    prepared.headers.push_back(piece->header);
    prepared.sent.push_back(piece->key);
    commands.push_back(
        {.arguments = {"HSETNX", piece->key, "d"}, .tail = piece->stored(), .key = piece->key});
  }
  for (const Piece* piece : pins) {
    prepared.keys.push_back(piece->key);
    prepared.headers.push_back(HeaderOf(piece->key, piece->ref));
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> ChunkTable::Store(const PinScope& scope, SnapshotChunks& chunks,
                                           Replication* replication, Trust trust,
                                           uint64_t keep_back) {
  Progress progress{replication};
  // While the bytes of one batch are on their way, the next one is named, and asked for.
  std::vector<Piece*> puts, pins, damaged;
  absl::Status stored = absl::OkStatus();
  while (stored.ok() && (!puts.empty() ||
                         (!chunks.done() && (keep_back == 0 || chunks.bytes_left() > keep_back)))) {
    pins.clear();
    // Unasked, the bytes of what nothing is known of are sent at once.
    std::vector<Piece*>& fresh = trust == Trust::kAsk ? pins : puts;
    if (keep_back == 0 || chunks.bytes_left() > keep_back) {
      chunks.Next(kStreamBytes, kBatchCommands, fresh, pins);
    }
    stored = Exchange(scope, puts, pins, progress);
    std::erase_if(puts, [](const Piece* piece) { return !piece->missing; });
    damaged.insert(damaged.end(), puts.begin(), puts.end());
    puts.clear();
    for (Piece* piece : pins) {
      if (piece->missing) (piece->old_header.empty() ? puts : damaged).push_back(piece);
    }
  }
  for (Piece* piece : damaged) {
    if (stored.ok()) stored = Replace(scope, *piece, progress);
  }
  if (stored.ok()) return progress.oldest;
  DropHold(scope).status().IgnoreError();
  std::vector<std::string> keys;
  for (const Piece& piece : chunks.pieces()) keys.push_back(piece.key);
  UnpinKeys(scope, keys);
  return stored;
}

absl::StatusOr<uint64_t> ChunkTable::Store(const PinScope& scope,
                                           const std::vector<std::string_view>& payloads,
                                           std::vector<SnapshotPart>& parts,
                                           Replication* replication) {
  ASSIGN_OR_RETURN(const auto chunks, Cut(scope.tenant, payloads, parts, nullptr));
  ASSIGN_OR_RETURN(const uint64_t oldest,
                   Store(scope, *chunks, replication, Trust::kAsk, /*keep_back=*/0));
  chunks->Describe(parts);
  return oldest;
}

absl::StatusOr<uint64_t> ChunkTable::Share(const PinScope& scope) {
  const Answer answer =
      client_.Run(Eval(kHold, keys_.Hold(scope.tenant, scope.pin),
                       {"share", std::string(scope.user), std::string(scope.session_id)}),
                  scope.deadline);
  RETURN_IF_ERROR(answer.reply.status());
  ASSIGN_OR_RETURN(const auto* fields, answer.reply->Array("hold", 2));
  if ((*fields)[0].integer == 0) return 0;
  uint64_t stamp = 0;
  RETURN_IF_ERROR(ReadStamp((*fields)[1], stamp));
  return stamp;
}

absl::StatusOr<uint64_t> ChunkTable::Pin(const PinScope& scope, const SnapshotManifest& manifest) {
  std::vector<Piece> pieces;
  for (const ChunkRef& ref : DistinctChunks(manifest)) {
    Piece& piece = pieces.emplace_back();
    piece.key = keys_.Chunk(scope.tenant, ref.digest);
    piece.ref = ref;
  }
  Progress progress;
  absl::Status pinned = absl::OkStatus();
  std::vector<Piece*> batch;
  for (Piece& piece : pieces) {
    batch.push_back(&piece);
    if (batch.size() < kBatchCommands && &piece != &pieces.back()) continue;
    if (pinned.ok()) pinned = Exchange(scope, {}, batch, progress);
    batch.clear();
  }
  for (const Piece& piece : pieces) {
    if (pinned.ok() && piece.missing) {
      pinned = CorruptChunk(piece.ref.digest, "is missing or damaged");
    }
  }
  if (pinned.ok()) return progress.oldest;
  DropHold(scope).status().IgnoreError();
  UnpinKeys(scope, ChunkKeys(scope.tenant, manifest));
  return pinned;
}

std::vector<std::string> ChunkTable::ChunkKeys(std::string_view tenant,
                                               const SnapshotManifest& manifest) const {
  std::vector<std::string> keys;
  for (const ChunkRef& ref : DistinctChunks(manifest)) {
    keys.push_back(keys_.Chunk(tenant, ref.digest));
  }
  return keys;
}

absl::StatusOr<bool> ChunkTable::DropHold(const PinScope& scope) {
  const Answer answer = client_.Run(
      Eval(kHold, keys_.Hold(scope.tenant, scope.pin), {"drop", std::string(scope.user), ""}),
      scope.deadline);
  RETURN_IF_ERROR(answer.reply.status());
  ASSIGN_OR_RETURN(const auto* fields, answer.reply->Array("hold", 2));
  return (*fields)[0].integer == 1;
}

void ChunkTable::Unpin(const PinScope& scope, const SnapshotManifest& manifest) {
  const std::vector<std::string> keys = ChunkKeys(scope.tenant, manifest);
  if (keys.empty()) return;
  const absl::StatusOr<bool> last = DropHold(scope);
  REPRISE_FAULT_POINT("redis.let_go.left");
  if (last.ok() && *last) UnpinKeys(scope, keys);
  REPRISE_FAULT_POINT("redis.let_go.done");
}

std::vector<Command> ChunkTable::UnpinCommands(const PinScope& scope,
                                               const SnapshotManifest& manifest,
                                               const std::string& session_key,
                                               const std::string& rev) const {
  const std::string hold = keys_.Hold(scope.tenant, scope.pin);
  std::vector<Command> commands;
  commands.push_back(EvalKeys(kLeaveHold, {session_key, hold}, {rev, std::string(scope.user)}));
  for (const ChunkRef& ref : DistinctChunks(manifest)) {
    commands.push_back(EvalKeys(
        kUnpinLeft,
        {keys_.Chunk(scope.tenant, ref.digest), session_key, hold, keys_.Counters(scope.tenant)},
        {std::string(scope.pin), rev}));
  }
  return commands;
}

void ChunkTable::Discard(const PinScope& scope, const PreparedChunks& prepared) {
  std::vector<Command> commands;
  for (const std::string& key : prepared.sent) {
    commands.push_back(Counting(kUnpinChunk, scope.tenant, key, {"none", ""}));
  }
  for (const Answer& answer : client_.Run(commands, scope.deadline)) {
    answer.reply.status().IgnoreError();
  }
}

void ChunkTable::UnpinKeys(const PinScope& scope, const std::vector<std::string>& keys) {
  int64_t freed = 0, count = 0;
  for (size_t begin = 0; begin < keys.size(); begin += kBatchCommands) {
    std::vector<Command> commands;
    for (size_t i = begin; i < std::min(keys.size(), begin + kBatchCommands); ++i) {
      commands.push_back(
          Counting(kUnpinChunk, scope.tenant, keys[i], {std::string(scope.pin), ""}));
    }
    for (const Answer& answer : client_.Run(commands, scope.deadline)) {
      if (answer.reply.ok() && answer.reply->elements.size() > 1) {
        freed += answer.reply->elements[0].integer;
        count += answer.reply->elements[1].integer;
      }
    }
  }
  Reserve(scope, -freed).IgnoreError();
  Count(scope.tenant, count, scope.deadline).IgnoreError();
}

}  // namespace reprise::state_store::redis
