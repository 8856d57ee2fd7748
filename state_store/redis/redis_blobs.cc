#include "state_store/redis/redis_blobs.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "state_store/internal/cat.h"
#include "state_store/internal/validate.h"
#include "state_store/redis/keys.h"
#include "state_store/store_error.h"

namespace reprise::state_store::redis {
namespace {

// A tenant's blobs: a sorted set of "digest:bytes" by the time at which they go, in microseconds.
// The empty member has minus the sum of their bytes for a score, so that one key holds both and
// every range of times leaves it out. Arguments: add or drop, the member, its bytes, time to live
// in microseconds, cap. Answers whether the member was known, then the digests that have to go.
const Script kBlobIndex("blob_index", R"lua(
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local total = -(tonumber(redis.call('ZSCORE', KEYS[1], '') or '0'))
local function remove(member)
  redis.call('ZREM', KEYS[1], member)
  total = total - tonumber(string.match(member, ':(%d+)$'))
end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], 0, now, 'LIMIT', 0, 64)) do
  remove(member)
end
local known = redis.call('ZSCORE', KEYS[1], ARGV[2]) and 1 or 0
local out = {known}
if ARGV[1] == 'drop' then
  if known == 1 then remove(ARGV[2]) end
else
  local bytes, cap = tonumber(ARGV[3]), tonumber(ARGV[5])
  if known == 0 then total = total + bytes end
  redis.call('ZADD', KEYS[1], string.format('%.0f', now + tonumber(ARGV[4])), ARGV[2])
  while total > cap do
    local oldest = redis.call('ZRANGEBYSCORE', KEYS[1], 0, '+inf', 'LIMIT', 0, 1)[1]
    if not oldest then break end
    remove(oldest)
    out[#out + 1] = string.match(oldest, '^(%x+):')
  end
  redis.call('PEXPIRE', KEYS[1], math.ceil(tonumber(ARGV[4]) / 1000) + 60000)
end
if total > 0 then
  redis.call('ZADD', KEYS[1], string.format('%.0f', -total), '')
else
  redis.call('ZREM', KEYS[1], '')
end
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

class RedisBlobs final : public BlobStore {
 public:
  RedisBlobs(const RedisBlobOptions& options, std::unique_ptr<Client> client)
      : options_(options), keys_(options.key_prefix), client_(std::move(client)) {}

  absl::Status Put(std::string_view tenant, const Sha256Digest& digest,
                   std::string_view bytes) override {
    RETURN_IF_ERROR(ValidateTenant(tenant));
    if (static_cast<int64_t>(bytes.size()) > options_.max_tenant_bytes) {
      return absl::ResourceExhaustedError(
          Cat("a blob of ", bytes.size(), " bytes, the cap is ", options_.max_tenant_bytes));
    }
    const Deadline deadline = NewDeadline();
    ASSIGN_OR_RETURN(const std::vector<Reply> listed,
                     Index(tenant, "add", HexDigest(digest), bytes.size(), deadline));
    std::vector<std::string> victims;
    for (size_t i = 1; i < listed.size(); ++i) victims.push_back(listed[i].text);
    RETURN_IF_ERROR(Unlink(tenant, victims, deadline));
    std::string key = keys_.Blob(tenant, HexDigest(digest));
    if (listed.front().integer == 1) {
      // Unless it was evicted there, or its Put got no further than the list.
      const Answer kept = client_->Run(
          {.arguments = {"PEXPIRE", key, TtlMillis()}, .tail = {}, .key = key}, deadline);
      RETURN_IF_ERROR(kept.reply.status());
      if (kept.reply->integer == 1) return absl::OkStatus();
    }
    // SET has its time to live behind the value; PSETEX has it before, so that the value is the
    // tail.
    const Answer answer = client_->Run(
        {.arguments = {"PSETEX", key, TtlMillis()}, .tail = bytes, .key = std::move(key)},
        deadline);
    return answer.reply.status();
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
    const std::string hex = HexDigest(digest);
    const std::string key = keys_.Blob(tenant, hex);
    const Answer length =
        client_->Run({.arguments = {"STRLEN", key}, .tail = {}, .key = key}, deadline);
    RETURN_IF_ERROR(length.reply.status());
    RETURN_IF_ERROR(Unlink(tenant, {hex}, deadline));
    return Index(tenant, "drop", hex, length.reply->integer, deadline).status();
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

 private:
  Deadline NewDeadline() const { return DeadlineAfter(options_.timeout); }
  std::string TtlMillis() const {
    return Cat(std::max<int64_t>(1, absl::ToInt64Milliseconds(options_.ttl)));
  }

  absl::StatusOr<std::vector<Reply>> Index(std::string_view tenant, const char* what,
                                           const std::string& hex, int64_t bytes,
                                           Deadline deadline) {
    Answer answer = client_->Run(
        Eval(kBlobIndex, keys_.BlobIndex(tenant),
             {what, Cat(hex, ":", bytes), Cat(bytes), Cat(absl::ToInt64Microseconds(options_.ttl)),
              Cat(options_.max_tenant_bytes)}),
        deadline);
    RETURN_IF_ERROR(answer.reply.status());
    RETURN_IF_ERROR(answer.reply->Array("blob index", 1).status());
    return std::move(answer.reply->elements);
  }

  absl::Status Unlink(std::string_view tenant, const std::vector<std::string>& hexes,
                      Deadline deadline) {
    std::vector<Command> commands;
    for (const std::string& hex : hexes) {
      std::string key = keys_.Blob(tenant, hex);
      commands.push_back({.arguments = {"UNLINK", key}, .tail = {}, .key = std::move(key)});
    }
    if (commands.empty()) return absl::OkStatus();
    for (const Answer& answer : client_->Run(commands, deadline)) {
      RETURN_IF_ERROR(answer.reply.status());
    }
    return absl::OkStatus();
  }

  const RedisBlobOptions options_;
  const Keys keys_;
  const std::unique_ptr<Client> client_;
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
  if (options.timeout <= absl::ZeroDuration()) return invalid("timeout must be positive");
  if (options.key_prefix.find_first_of("{}") != std::string::npos) {
    return invalid("key_prefix may hold no brace");
  }
  ASSIGN_OR_RETURN(std::unique_ptr<Client> client, Client::Create(options.client));
  return std::make_unique<RedisBlobs>(options, std::move(client));
}

}  // namespace reprise::state_store::redis
