#include "state_store/redis/redis_blobs.h"

#include <algorithm>
#include <atomic>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "state_store/internal/cat.h"
#include "state_store/internal/validate.h"
#include "state_store/redis/keys.h"
#include "state_store/store_error.h"

namespace reprise::state_store::redis {
namespace {

// A list of blobs, one of each tenant and one of all: a sorted set of "name:bytes" by the time at
// which they go, in microseconds. The empty member has minus the sum of their bytes for a score, so
// that one key holds both and every range of times leaves it out. What has to go stays listed, and
// counted, until it is dropped: whoever comes next finds it if the server that was told is gone.
// Arguments: add or drop, the member; for add also its bytes, time to live in microseconds, cap,
// most to name. Answers whether the member was known; then, for add, the sum without what has to
// go, and that.
const Script kBlobList("blob_list", R"lua(
local total = -(tonumber(redis.call('ZSCORE', KEYS[1], '') or '0'))
local function bytes_of(member) return tonumber(string.match(member, ':(%d+)$')) end
local function remove(member)
  redis.call('ZREM', KEYS[1], member)
  total = total - bytes_of(member)
end
local member = ARGV[2]
local out = {redis.call('ZSCORE', KEYS[1], member) and 1 or 0}
if ARGV[1] == 'drop' then
  if out[1] == 1 then remove(member) end
else
  local time = redis.call('TIME')
  local now = time[1] * 1000000 + time[2]
  if out[1] == 0 then total = total + tonumber(ARGV[3]) end
  redis.call('ZADD', KEYS[1], string.format('%.0f', now + tonumber(ARGV[4])), member)
  for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], 0, now, 'LIMIT', 0, 64)) do
    remove(gone)
  end
  local life = math.ceil(tonumber(ARGV[4]) / 1000) + 60000
  if redis.call('PTTL', KEYS[1]) < life then redis.call('PEXPIRE', KEYS[1], life) end
end
if total > 0 then
  redis.call('ZADD', KEYS[1], string.format('%.0f', -total), '')
else
  redis.call('ZREM', KEYS[1], '')
end
if ARGV[1] == 'drop' then return out end
local cap, most = tonumber(ARGV[5]), tonumber(ARGV[6])
if total > cap then
  for _, oldest in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], 0, '+inf', 'LIMIT', 0, most)) do
    if total <= cap then break end
    if oldest ~= member then
      total = total - bytes_of(oldest)
      out[#out + 1] = oldest
    end
  end
end
table.insert(out, 2, total)
return out
)lua");

// Arguments: the note, how many there may be, time to live in milliseconds.
const Script kBlobNote("blob_note", R"lua(
if redis.call('SISMEMBER', KEYS[1], ARGV[1]) == 0 and
   redis.call('SCARD', KEYS[1]) >= tonumber(ARGV[2]) then
  redis.call('SPOP', KEYS[1])
end
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
)lua");

// One blob and its place in the lists.
struct Listed {
  std::string tenant, hex;
  int64_t bytes = 0;
};

// From "name:bytes", the name being "digest", or "tenant:digest" in the list of all.
std::optional<Listed> ParseListed(std::string_view tenant, std::string_view member) {
  Listed listed;
  const std::vector<std::string> parts =
      absl::StrSplit(absl::string_view(member.data(), member.size()), ':');
  if (parts.size() < 2 || parts.size() > 3 || !absl::SimpleAtoi(parts.back(), &listed.bytes)) {
    return std::nullopt;
  }
  listed.hex = parts[parts.size() - 2];
  listed.tenant = tenant;
  if (parts.size() == 3) {
    std::optional<std::string> unescaped = UnescapeTenant(parts.front());
    if (!unescaped.has_value()) return std::nullopt;
    listed.tenant = *std::move(unescaped);
  }
  return listed;
}

class RedisBlobs final : public BlobStore {
 public:
  RedisBlobs(const RedisBlobOptions& options, std::unique_ptr<Client> client)
      : options_(options), keys_(options.key_prefix), client_(std::move(client)) {}

  absl::Status Put(std::string_view tenant, const Sha256Digest& digest,
                   std::string_view bytes) override {
    RETURN_IF_ERROR(ValidateTenant(tenant));
    const int64_t cap = std::min(options_.max_tenant_bytes, options_.max_total_bytes);
    if (static_cast<int64_t>(bytes.size()) > cap) {
      return absl::ResourceExhaustedError(
          Cat("a blob of ", bytes.size(), " bytes, the cap is ", cap));
    }
    const Deadline deadline = NewDeadline();
    const Listed blob{std::string(tenant), HexDigest(digest), static_cast<int64_t>(bytes.size())};
    ASSIGN_OR_RETURN(const bool known, MakeRoom(blob, deadline));
    const std::string key = keys_.Blob(blob.tenant, blob.hex);
    if (known) {
      // Unless it was evicted there, or its Put got no further than the lists.
      const Answer kept = client_->Run(
          {.arguments = {"PEXPIRE", key, TtlMillis()}, .tail = {}, .key = key}, deadline);
      RETURN_IF_ERROR(kept.reply.status());
      if (kept.reply->integer == 1) return absl::OkStatus();
    }
    // SET has its time to live behind the value; PSETEX has it before, so that the value is the
    // tail.
    const Answer answer = client_->Run(
        {.arguments = {"PSETEX", key, TtlMillis()}, .tail = bytes, .key = key}, deadline);
    RETURN_IF_ERROR(answer.reply.status());
    // Another server may have taken it for the oldest on the way: nothing stays that no list
    // counts.
    ASSIGN_OR_RETURN(const bool listed, IsListed(blob, deadline));
    if (listed) return absl::OkStatus();
    return Remove({blob}, deadline).status();
  }

  absl::StatusOr<std::string> Get(std::string_view tenant, const Sha256Digest& digest) override {
    RETURN_IF_ERROR(ValidateTenant(tenant));
    const std::string key = keys_.Blob(tenant, HexDigest(digest));
    Answer answer =
        client_->Run({.arguments = {"GET", key}, .tail = {}, .key = key}, NewDeadline());
    RETURN_IF_ERROR(answer.reply.status());
    if (answer.reply->is_nil()) return absl::NotFoundError("no such blob");
    RETURN_IF_ERROR(answer.reply->String("blob").status());
    return std::move(answer.reply->text);
  }

  absl::Status Erase(std::string_view tenant, const Sha256Digest& digest) override {
    RETURN_IF_ERROR(ValidateTenant(tenant));
    const Deadline deadline = NewDeadline();
    Listed blob{std::string(tenant), HexDigest(digest)};
    const std::string key = keys_.Blob(blob.tenant, blob.hex);
    const Answer length =
        client_->Run({.arguments = {"STRLEN", key}, .tail = {}, .key = key}, deadline);
    RETURN_IF_ERROR(length.reply.status());
    blob.bytes = length.reply->integer;
    return Remove({blob}, deadline).status();
  }

  absl::Status AddNote(std::string_view tenant, const Sha256Digest& digest,
                       std::string_view note) override {
    RETURN_IF_ERROR(ValidateTenant(tenant));
    const Answer answer = client_->Run(Eval(kBlobNote, keys_.BlobNotes(tenant, HexDigest(digest)),
                                            {std::string(note), Cat(kMostNotes), TtlMillis()}),
                                       NewDeadline());
    return answer.reply.status();
  }

  absl::StatusOr<std::vector<std::vector<std::string>>> Notes(
      std::string_view tenant, const std::vector<Sha256Digest>& digests) override {
    RETURN_IF_ERROR(ValidateTenant(tenant));
    std::vector<Command> commands;
    for (const Sha256Digest& digest : digests) {
      std::string key = keys_.BlobNotes(tenant, HexDigest(digest));
      commands.push_back({.arguments = {"SMEMBERS", key}, .tail = {}, .key = std::move(key)});
    }
    std::vector<std::vector<std::string>> notes;
    for (Answer& answer : client_->Run(commands, NewDeadline())) {
      RETURN_IF_ERROR(answer.reply.status());
      ASSIGN_OR_RETURN(const std::vector<Reply>* members, answer.reply->Array("notes"));
      notes.emplace_back();
      for (const Reply& member : *members) notes.back().push_back(member.text);
    }
    return notes;
  }

  BlobStats stats() const override { return {total_bytes_, tenant_evictions_, total_evictions_}; }

 private:
  static constexpr int kMostVictims = 256;  // of one list in one round

  Deadline NewDeadline() const { return DeadlineAfter(options_.timeout); }
  std::string TtlMillis() const {
    return Cat(std::max<int64_t>(1, absl::ToInt64Milliseconds(options_.ttl)));
  }

  // Lists the blob in both lists, before it is written, and removes the oldest beyond each cap: the
  // tenant's own first, which make room in all. Whether the tenant's list knew it.
  absl::StatusOr<bool> MakeRoom(const Listed& blob, Deadline deadline) {
    ASSIGN_OR_RETURN(const bool known,
                     MakeRoomIn(keys_.BlobIndex(blob.tenant), OfTenant(blob), blob,
                                options_.max_tenant_bytes, &tenant_evictions_, nullptr, deadline));
    RETURN_IF_ERROR(MakeRoomIn(keys_.AllBlobs(), OfAll(blob), blob, options_.max_total_bytes,
                               &total_evictions_, &total_bytes_, deadline)
                        .status());
    return known;
  }

  // In one list; counts what went in `evictions`, and sets `sum`, if any, to the bytes listed.
  absl::StatusOr<bool> MakeRoomIn(const std::string& list, const std::string& member,
                                  const Listed& blob, int64_t cap, std::atomic<int64_t>* evictions,
                                  std::atomic<int64_t>* sum, Deadline deadline) {
    std::optional<bool> known;
    while (true) {
      const Answer added = client_->Run(
          Eval(kBlobList, list,
               {"add", member, Cat(blob.bytes), Cat(absl::ToInt64Microseconds(options_.ttl)),
                Cat(cap), Cat(kMostVictims)}),
          deadline);
      RETURN_IF_ERROR(added.reply.status());
      ASSIGN_OR_RETURN(const std::vector<Reply>* reply, added.reply->Array("blobs listed", 2));
      if (!known.has_value()) known = reply->front().integer == 1;
      std::vector<Listed> victims;
      for (size_t i = 2; i < reply->size(); ++i) {
        std::optional<Listed> victim = ParseListed(blob.tenant, (*reply)[i].text);
        if (!victim.has_value()) return absl::DataLossError("a list of blobs is damaged");
        victims.push_back(*std::move(victim));
      }
      ASSIGN_OR_RETURN(const int64_t removed, Remove(victims, deadline));
      *evictions += removed;
      const int64_t bytes = (*reply)[1].integer;
      if (sum != nullptr) *sum = bytes;
      // More of them than one answer names, as when the cap has become smaller.
      if (bytes <= cap || victims.empty()) return *known;
    }
  }

  // By one list: whoever drops it from both removes it once more after that.
  absl::StatusOr<bool> IsListed(const Listed& blob, Deadline deadline) {
    const std::string list = keys_.BlobIndex(blob.tenant);
    const Answer score = client_->Run(
        {.arguments = {"ZSCORE", list, OfTenant(blob)}, .tail = {}, .key = list}, deadline);
    RETURN_IF_ERROR(score.reply.status());
    return !score.reply->is_nil();
  }

  // How many were listed. Once before they are dropped from the lists, so that a server that dies
  // here leaves none uncounted; and once after, for those that another one wrote in between and saw
  // listed still.
  absl::StatusOr<int64_t> Remove(const std::vector<Listed>& blobs, Deadline deadline) {
    if (blobs.empty()) return 0;
    std::vector<Command> unlink, drop;
    for (const Listed& blob : blobs) {
      std::string key = keys_.Blob(blob.tenant, blob.hex);
      unlink.push_back({.arguments = {"UNLINK", key}, .tail = {}, .key = std::move(key)});
      drop.push_back(Eval(kBlobList, keys_.BlobIndex(blob.tenant), {"drop", OfTenant(blob)}));
      drop.push_back(Eval(kBlobList, keys_.AllBlobs(), {"drop", OfAll(blob)}));
    }
    RETURN_IF_ERROR(StatusOf(client_->Run(unlink, deadline)));
    const std::vector<Answer> dropped = client_->Run(drop, deadline);
    RETURN_IF_ERROR(StatusOf(dropped));
    RETURN_IF_ERROR(StatusOf(client_->Run(unlink, deadline)));
    int64_t listed = 0;
    for (size_t i = 0; i < dropped.size(); i += 2) {
      for (const size_t at : {i, i + 1}) {
        RETURN_IF_ERROR(dropped[at].reply->Array("blob dropped", 1).status());
      }
      listed += dropped[i].reply->elements.front().integer == 1 ||
                dropped[i + 1].reply->elements.front().integer == 1;
    }
    return listed;
  }

  static absl::Status StatusOf(const std::vector<Answer>& answers) {
    for (const Answer& answer : answers) RETURN_IF_ERROR(answer.reply.status());
    return absl::OkStatus();
  }
  static std::string OfTenant(const Listed& blob) { return Cat(blob.hex, ":", blob.bytes); }
  static std::string OfAll(const Listed& blob) {
    return Cat(EscapeTenant(blob.tenant), ":", OfTenant(blob));
  }

  const RedisBlobOptions options_;
  const Keys keys_;
  const std::unique_ptr<Client> client_;
  std::atomic<int64_t> total_bytes_ = 0, tenant_evictions_ = 0, total_evictions_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<BlobStore>> MakeRedisBlobs(const RedisBlobOptions& options) {
  const auto invalid = [](std::string_view what) {
    return MakeStoreError(StoreError::kInvalidArgument, Cat("blobs in Redis: ", what));
  };
  if (options.ttl < absl::Milliseconds(1) || options.ttl > absl::Hours(24 * 3660)) {
    return invalid("ttl: from 1 ms to 10 years");
  }
  if (options.max_tenant_bytes <= 0) return invalid("max_tenant_bytes must be positive");
  if (options.max_total_bytes <= 0) return invalid("max_total_bytes must be positive");
  if (options.timeout <= absl::ZeroDuration()) return invalid("timeout must be positive");
  if (options.key_prefix.find_first_of("{}") != std::string::npos) {
    return invalid("key_prefix may hold no brace");
  }
  ASSIGN_OR_RETURN(std::unique_ptr<Client> client, Client::Create(options.client));
  return std::make_unique<RedisBlobs>(options, std::move(client));
}

}  // namespace reprise::state_store::redis
