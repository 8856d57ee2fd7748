#include "state_store/redis/chunk_table.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "base/hash.h"
#include "base/status_macros.h"
#include "state_store/chunking.h"
#include "state_store/internal/cat.h"
#include "state_store/redis/error.h"
#include "state_store/redis/store_scripts.h"
#include "state_store/store_error.h"

namespace reprise::state_store::redis {
namespace {

// Of one pipeline: small commands, and bytes of chunks in either direction.
constexpr size_t kBatchCommands = 512;
constexpr size_t kBatchBytes = 8 << 20;

absl::Status CorruptChunk(const Sha256Digest& digest, std::string_view problem) {
  return MakeStoreError(StoreError::kCorruptChunk, Cat("chunk ", HexDigest(digest), " ", problem));
}

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

// One distinct chunk of what is being stored.
struct ChunkTable::Piece {
  std::string key;
  ChunkRef ref;
  std::string_view raw;
  bool missing = true;
  std::string old_header;  // of damaged bytes, to be replaced
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

absl::Status ChunkTable::PinPieces(const PinScope& scope, std::vector<Piece>& pieces,
                                   uint64_t& oldest, Replication* replication) {
  for (size_t begin = 0; begin < pieces.size(); begin += kBatchCommands) {
    const size_t end = std::min(pieces.size(), begin + kBatchCommands);
    std::vector<Command> commands;
    for (size_t i = begin; i < end; ++i) {
      commands.push_back(
          Eval(kPinChunk, pieces[i].key, {std::string(scope.pin), std::string(scope.session_id)}));
    }
    ReplicationSum replicas(replication);
    const std::vector<Answer> answers = client_.Run(commands, scope.deadline, replicas.one());
    replicas.Add();
    for (size_t i = begin; i < end; ++i) {
      Piece& piece = pieces[i];
      const absl::StatusOr<Reply>& reply = answers[i - begin].reply;
      RETURN_IF_ERROR(reply.status());
      ASSIGN_OR_RETURN(const auto* fields, reply->Array("pin_chunk", 3));
      RETURN_IF_ERROR(ReadStamp((*fields)[2], oldest));
      const std::string& header = (*fields)[1].text;
      piece.missing = (*fields)[0].integer != 1 || !ParseHeader(piece.key, header, piece.ref);
      if (piece.missing) piece.old_header = header;
    }
  }
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

absl::Status ChunkTable::PutBatch(const PinScope& scope, const std::vector<Piece*>& batch,
                                  uint64_t& oldest, Replication* replication) {
  std::vector<EncodedChunk> encoded(batch.size());
  std::vector<std::string> headers(batch.size());
  std::vector<Command> commands;
  int64_t reserved = 0;
  for (size_t i = 0; i < batch.size(); ++i) {
    Piece& piece = *batch[i];
    ChunkRef old;
    // Manifests describe the damaged bytes, so only equal ones can take their place.
    const bool heal = ParseHeader(piece.key, piece.old_header, old);
    const ChunkCodec codec = heal ? old.codec : options_.codec;
    ASSIGN_OR_RETURN(encoded[i], EncodeChunk(piece.raw, codec, options_.zstd_level));
    const std::string_view stored =
        encoded[i].codec == ChunkCodec::kRaw ? piece.raw : encoded[i].stored;
    piece.ref.codec = encoded[i].codec;
    piece.ref.raw_length = static_cast<uint32_t>(piece.raw.size());
    piece.ref.stored_length = static_cast<uint32_t>(stored.size());
    piece.ref.checksum = Checksum64(piece.raw);
    headers[i] = HeaderOf(piece.key, piece.ref);
    if (heal && headers[i] != piece.old_header) {
      return CorruptChunk(piece.ref.digest, "is damaged and cannot be written as it was");
    }
    reserved += piece.ref.stored_length;
    commands.push_back(
        Eval(kPutChunk, piece.key,
             {std::string(scope.pin), std::string(scope.session_id), headers[i], piece.old_header},
             stored));
  }
  RETURN_IF_ERROR(Reserve(scope, reserved));
  ReplicationSum replicas(replication);
  const std::vector<Answer> answers = client_.Run(commands, scope.deadline, replicas.one());
  replicas.Add();
  absl::Status failure = absl::OkStatus();
  for (size_t i = 0; i < batch.size(); ++i) {
    Piece& piece = *batch[i];
    const absl::StatusOr<Reply>& reply = answers[i].reply;
    if (!reply.ok()) {
      failure.Update(reply.status());
      continue;
    }
    ASSIGN_OR_RETURN(const auto* fields, reply->Array("put_chunk", 2));
    if ((*fields)[0].integer != 1 || fields->size() < 4) {
      failure.Update(CorruptChunk(piece.ref.digest, "is damaged and is described otherwise"));
      continue;
    }
    reserved -= (*fields)[3].integer;
    failure.Update(ReadStamp((*fields)[2], oldest));
    // Somebody else may have brought it meanwhile, in another form.
    if (!ParseHeader(piece.key, (*fields)[1].text, piece.ref)) {
      failure.Update(CorruptChunk(piece.ref.digest, "has a damaged header"));
    }
    piece.missing = false;
  }
  Reserve(scope, -reserved).IgnoreError();
  return failure;
}

absl::Status ChunkTable::PutPieces(const PinScope& scope, std::vector<Piece*>& missing,
                                   uint64_t& oldest, Replication* replication) {
  std::vector<Piece*> batch;
  size_t bytes = 0;
  for (Piece* piece : missing) {
    if (!batch.empty() && bytes + piece->raw.size() > kBatchBytes) {
      RETURN_IF_ERROR(PutBatch(scope, batch, oldest, replication));
      batch.clear();
      bytes = 0;
    }
    batch.push_back(piece);
    bytes += piece->raw.size();
  }
  return batch.empty() ? absl::OkStatus() : PutBatch(scope, batch, oldest, replication);
}

absl::StatusOr<uint64_t> ChunkTable::Store(const PinScope& scope,
                                           const std::vector<std::string>& payloads,
                                           std::vector<SnapshotPart>& parts,
                                           Replication* replication) {
  std::vector<Piece> pieces;
  std::map<Sha256Digest, size_t> index;
  std::vector<std::vector<size_t>> layout(parts.size());  // [part][chunk] -> piece
  for (size_t p = 0; p < parts.size(); ++p) {
    const auto chunks = CutIntoChunks(payloads[p], options_.chunk_bytes);
    if (chunks.size() > kMaxChunksPerPart) {
      return MakeStoreError(StoreError::kInvalidArgument,
                            Cat("part \"", parts[p].name, "\" has too many chunks"));
    }
    for (const std::string_view raw : chunks) {
      const Sha256Digest digest = ChunkDigest(scope.tenant, raw);
      const auto [it, fresh] = index.try_emplace(digest, pieces.size());
      if (fresh) {
        Piece& piece = pieces.emplace_back();
        piece.key = keys_.Chunk(scope.tenant, digest);
        piece.ref.digest = digest;
        piece.raw = raw;
      }
      layout[p].push_back(it->second);
    }
  }
  uint64_t oldest = 0;
  absl::Status stored = PinPieces(scope, pieces, oldest, replication);
  if (stored.ok()) {
    std::vector<Piece*> missing;
    for (Piece& piece : pieces) {
      if (piece.missing) missing.push_back(&piece);
    }
    stored = PutPieces(scope, missing, oldest, replication);
  }
  if (!stored.ok()) {
    UnpinPieces(scope, pieces);
    return stored;
  }
  for (size_t p = 0; p < parts.size(); ++p) {
    parts[p].chunks.clear();
    for (const size_t i : layout[p]) parts[p].chunks.push_back(pieces[i].ref);
  }
  return oldest;
}

absl::StatusOr<uint64_t> ChunkTable::Pin(const PinScope& scope, const SnapshotManifest& manifest) {
  std::vector<Piece> pieces;
  for (const ChunkRef& ref : DistinctChunks(manifest)) {
    Piece& piece = pieces.emplace_back();
    piece.key = keys_.Chunk(scope.tenant, ref.digest);
    piece.ref = ref;
  }
  uint64_t oldest = 0;
  absl::Status pinned = PinPieces(scope, pieces, oldest, nullptr);
  for (const Piece& piece : pieces) {
    if (pinned.ok() && piece.missing) {
      pinned = CorruptChunk(piece.ref.digest, "is missing or damaged");
    }
  }
  if (pinned.ok()) return oldest;
  UnpinPieces(scope, pieces);
  return pinned;
}

void ChunkTable::Unpin(const PinScope& scope, const SnapshotManifest& manifest) {
  std::vector<Piece> pieces;
  for (const ChunkRef& ref : DistinctChunks(manifest)) {
    pieces.emplace_back().key = keys_.Chunk(scope.tenant, ref.digest);
  }
  UnpinPieces(scope, pieces);
}

void ChunkTable::UnpinPieces(const PinScope& scope, const std::vector<Piece>& pieces) {
  int64_t freed = 0;
  for (size_t begin = 0; begin < pieces.size(); begin += kBatchCommands) {
    std::vector<Command> commands;
    for (size_t i = begin; i < std::min(pieces.size(), begin + kBatchCommands); ++i) {
      commands.push_back(Eval(kUnpinChunk, pieces[i].key, {std::string(scope.pin), ""}));
    }
    for (const Answer& answer : client_.Run(commands, scope.deadline)) {
      if (answer.reply.ok() && !answer.reply->elements.empty()) {
        freed += answer.reply->elements[0].integer;
      }
    }
  }
  Reserve(scope, -freed).IgnoreError();
}

absl::StatusOr<std::string> ChunkTable::Verified(std::string_view tenant, const ChunkRef& ref,
                                                 const Reply& reply, Deadline deadline) {
  if (reply.is_nil()) return CorruptChunk(ref.digest, "is missing");
  absl::StatusOr<std::string> raw = DecodeChunk(reply.text, ref);
  if (raw.ok()) return raw;
  // Once more, in case it was damaged on the way and not there.
  const std::string key = keys_.Chunk(tenant, ref.digest);
  const Answer again =
      client_.Run({.arguments = {"HGET", key, "d"}, .tail = {}, .key = key}, deadline);
  RETURN_IF_ERROR(again.reply.status());
  if (again.reply->is_nil()) return CorruptChunk(ref.digest, "is missing");
  absl::StatusOr<std::string> second = DecodeChunk(again.reply->text, ref);
  if (second.ok()) return second;
  client_.Run(Eval(kCondemnChunk, key, {HeaderOf(key, ref)}), deadline)
      .reply.status()
      .IgnoreError();
  return raw.status();
}

absl::StatusOr<std::vector<std::string>> ChunkTable::Read(std::string_view tenant,
                                                          const SnapshotManifest& manifest,
                                                          Deadline deadline) {
  struct Place {
    const ChunkRef* ref;
    size_t part;
  };
  std::vector<Place> places;
  std::vector<std::string> payloads(manifest.parts.size());
  for (size_t p = 0; p < manifest.parts.size(); ++p) {
    payloads[p].reserve(manifest.parts[p].byte_length);
    for (const ChunkRef& ref : manifest.parts[p].chunks) places.push_back({&ref, p});
  }
  for (size_t begin = 0; begin < places.size();) {
    std::vector<Command> commands;
    size_t end = begin, bytes = 0;
    while (end < places.size() && commands.size() < kBatchCommands &&
           (commands.empty() || bytes + places[end].ref->stored_length <= kBatchBytes)) {
      std::string key = keys_.Chunk(tenant, places[end].ref->digest);
      bytes += places[end].ref->stored_length;
      commands.push_back({.arguments = {"HGET", key, "d"}, .tail = {}, .key = std::move(key)});
      ++end;
    }
    const std::vector<Answer> answers = client_.Run(commands, deadline);
    for (size_t i = begin; i < end; ++i) {
      RETURN_IF_ERROR(answers[i - begin].reply.status());
      absl::StatusOr<std::string> raw =
          Verified(tenant, *places[i].ref, *answers[i - begin].reply, deadline);
      if (!raw.ok()) {
        return Prefixed(raw.status(), Cat("part \"", manifest.parts[places[i].part].name, "\""));
      }
      payloads[places[i].part] += *raw;
    }
    begin = end;
  }
  return payloads;
}

}  // namespace reprise::state_store::redis
