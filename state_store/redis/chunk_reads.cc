// ChunkTable: reading.
#include <algorithm>
#include <deque>
#include <future>
#include <utility>

#include "base/status_macros.h"
#include "state_store/chunking.h"
#include "state_store/internal/cat.h"
#include "state_store/redis/chunk_table.h"
#include "state_store/redis/store_scripts.h"

namespace reprise::state_store::redis {
namespace {

constexpr uint64_t kMostReserved = 256 << 20;

// How the bytes of a snapshot are asked for.
struct ReadPlan {
  size_t batch_bytes;  // of a round trip
  size_t under_way;    // round trips at once
};
// Two connections keep Redis busy while bytes are verified and copied. Over TCP a connection that
// is seldom used may wait for timers, 50 ms and more on loopback, which costs more than that saves.
constexpr ReadPlan kOverUnixSocket{2 << 20, 2};
constexpr ReadPlan kOverTcp{8 << 20, 1};

// One chunk of a snapshot.
struct Place {
  const ChunkRef* ref;
  size_t part;
  SharedBytes known{};  // if it need not be read
};

// The places up to `end` from where the batch before ended; what Redis says of those not known.
struct Batch {
  size_t end;
  std::future<std::vector<Answer>> answers;
};

}  // namespace

absl::StatusOr<std::string> ChunkTable::Verified(std::string_view tenant, const ChunkRef& ref,
                                                 Reply reply, Deadline deadline) {
  if (reply.is_nil()) return CorruptChunk(ref.digest, "is missing");
  absl::StatusOr<std::string> raw = DecodeChunk(std::move(reply.text), ref);
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
  std::vector<Place> places;
  std::vector<std::string> payloads(manifest.parts.size());
  for (size_t p = 0; p < manifest.parts.size(); ++p) {
    // A manifest may say what it likes; memory beyond this is taken as bytes arrive.
    const uint64_t length = std::min<uint64_t>(manifest.parts[p].byte_length, kMostReserved);
    if (manifest.parts[p].chunks.size() > 1) payloads[p].reserve(length);
    for (const ChunkRef& ref : manifest.parts[p].chunks) places.push_back({&ref, p});
  }

  const ReadPlan plan = client_.over_unix_socket() ? kOverUnixSocket : kOverTcp;
  std::deque<Batch> coming;
  size_t asked = 0;
  // Asks for the next batch, if anything is left. Deferred: when it is waited for.
  const auto ask = [&](std::launch how) {
    if (asked == places.size()) return;
    std::vector<Command> commands;
    size_t bytes = 0;
    while (asked < places.size() && commands.size() < kBatchCommands &&
           (commands.empty() || bytes + places[asked].ref->stored_length <= plan.batch_bytes)) {
      Place& place = places[asked++];
      if (known_ != nullptr) place.known = known_->FindChunk(tenant, *place.ref);
      if (place.known.owner != nullptr) continue;
      std::string key = keys_.Chunk(tenant, place.ref->digest);
      bytes += place.ref->stored_length;
      commands.push_back({.arguments = {"HGET", key, "d"}, .tail = {}, .key = std::move(key)});
    }
    if (commands.empty()) how = std::launch::deferred;
    coming.push_back({asked, std::async(how, [this, deadline, commands = std::move(commands)] {
                        return commands.empty() ? std::vector<Answer>()
                                                : client_.Run(commands, deadline);
                      })});
  };
  // Also deferred if there is no thread to be had.
  constexpr std::launch kOnAThread = std::launch::async | std::launch::deferred;

  // What is waited for at once needs none.
  for (size_t i = 0; i < plan.under_way; ++i) ask(i == 0 ? std::launch::deferred : kOnAThread);
  size_t next = 0;
  while (!coming.empty()) {
    Batch batch = std::move(coming.front());
    coming.pop_front();
    std::vector<Answer> answers = batch.answers.get();
    ask(plan.under_way == 1 ? std::launch::deferred : kOnAThread);
    auto answer = answers.begin();
    for (; next < batch.end; ++next) {
      const Place& place = places[next];
      const SnapshotPart& part = manifest.parts[place.part];
      std::string& payload = payloads[place.part];
      if (place.known.owner != nullptr) {
        payload += place.known.bytes;
        continue;
      }
      RETURN_IF_ERROR(answer->reply.status());
      absl::StatusOr<std::string> raw =
          Verified(tenant, *place.ref, *std::move((answer++)->reply), deadline);
      if (!raw.ok()) return Prefixed(raw.status(), Cat("part \"", part.name, "\""));
      if (part.chunks.size() == 1) {
        payload = *std::move(raw);
      } else {
        payload += *raw;
      }
    }
  }
  return payloads;
}

}  // namespace reprise::state_store::redis
