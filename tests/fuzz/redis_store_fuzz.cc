// The store in Redis, and the shared prefixes there, against a server whose answers are anyone's:
// whatever it says, calls end with a result or an error. The first byte chooses the call, the rest
// is what the server answers.
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>

#include "state_store/byte_stream.h"
#include "state_store/redis/redis_blobs.h"
#include "state_store/redis/redis_store.h"
#include "state_store/testing/builders.h"
#include "tests/fuzz/fake_redis.h"

namespace reprise::state_store::redis {
namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

ClientOptions Connect(const FakeRedis& server) {
  ClientOptions client;
  client.url = server.url();
  client.min_retry_delay = absl::Microseconds(10);
  client.max_retry_delay = absl::Microseconds(100);
  client.pool.min_backoff = client.pool.max_backoff = absl::Microseconds(10);
  return client;
}

// New for each input, so that nothing is remembered.
std::unique_ptr<RedisStore> Open(const FakeRedis& server) {
  RedisStoreOptions options;
  options.client = Connect(server);
  options.store.chunk_bytes = 512;
  options.pin_grace = absl::Hours(1);
  return RedisStore::Create(options).value();
}

void Blobs(const FakeRedis& server) {
  RedisBlobOptions options;
  options.client = Connect(server);
  options.timeout = absl::Seconds(5);
  const auto blobs = MakeRedisBlobs(options).value();
  const Sha256Digest digest = Sha256("d");
  blobs->Put("t", digest, "bytes").IgnoreError();
  blobs->Get("t", digest).status().IgnoreError();
  blobs->AddNote("t", digest, "1:x").IgnoreError();
  if (const auto notes = blobs->Notes("t", {digest, digest}); notes.ok()) {
    Require(notes->size() == 2);
  }
  blobs->Erase("t", digest).IgnoreError();
}

void RunOne(const FakeRedis& server, uint8_t choice) {
  if (choice % 16 == 0) return Blobs(server);
  const auto store = Open(server);
  const std::string id(32, 'a');
  switch (choice % 16) {
    case 1:
      if (const auto session = store->GetSession("t", "a"); session.ok()) {
        Require(session->tenant == "t" && session->id == "a");
      }
      break;
    case 2:
      store->ListSessions("t", {}).status().IgnoreError();
      break;
    case 3:
      if (const auto info = store->GetSnapshot("t", "a", choice & 16 ? id : ""); info.ok()) {
        Require(info->manifest.tenant == "t");
      }
      break;
    case 4:
      if (const auto page = store->ListSnapshots("t", "a", {}); page.ok()) {
        for (const SnapshotInfo& info : page->snapshots) Require(info.manifest.tenant == "t");
      }
      break;
    case 5:
      if (const auto read = store->ReadSnapshot("t", "a", choice & 16 ? id : ""); read.ok()) {
        Require(read->payloads.size() == read->manifest.parts.size());
        for (size_t p = 0; p < read->payloads.size(); ++p) {
          Require(read->payloads[p].size() == read->manifest.parts[p].byte_length);
        }
      }
      break;
    case 6: {
      StringSink sink;
      store->ExportSnapshot("t", "a", "", sink).IgnoreError();
      break;
    }
    case 7:
      store->FindCommit("t", "a", id).status().IgnoreError();
      break;
    case 8:
      store->PutAndCommit("t", "a", choice / 16, MakeTestSnapshot(1, 600), {.request_id = id})
          .status()
          .IgnoreError();
      break;
    case 9:
      store->Fork("t", {"a", choice & 16 ? id : ""}, {.id = "b", .request_id = id})
          .status()
          .IgnoreError();
      break;
    case 10:
      store->CreateSession("t", {.id = "a", .request_id = id}).status().IgnoreError();
      break;
    case 11:
      if (choice & 16) {
        store->DeleteSession("t", "a").IgnoreError();
      } else {
        store->Rewind("t", "a", id, choice / 32, id).status().IgnoreError();
      }
      break;
    case 12:
      if (const auto lease = store->AcquireLease("t", "a", "me", absl::Seconds(1)); lease.ok()) {
        store->RenewLease("t", "a", *lease, absl::Seconds(1)).status().IgnoreError();
        store->ReleaseLease("t", "a", *lease).IgnoreError();
      }
      break;
    case 13:
      store->SweepExpired(absl::FromUnixSeconds(1'800'000'000)).status().IgnoreError();
      break;
    case 14:
      store->CollectGarbage().status().IgnoreError();
      break;
    default:
      store->Stats("t").status().IgnoreError();
      store->Usage("t").status().IgnoreError();
      store->CheckIntegrity().IgnoreError();
  }
}

}  // namespace
}  // namespace reprise::state_store::redis

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using reprise::state_store::redis::FakeRedis;
  static FakeRedis& server = *new FakeRedis;
  if (size == 0) return 0;
  server.Feed({reinterpret_cast<const char*>(data) + 1, size - 1});
  reprise::state_store::redis::RunOne(server, data[0]);
  return 0;
}
