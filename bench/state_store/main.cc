// store_bench: starts a redis-server without persistence and measures the store against it.
#include <CLI/CLI.hpp>
#include <cstring>
#include <random>

#include "bench/state_store/bench.h"
#include "tests/testing/redis_server.h"

namespace reprise::state_store::redis::bench {

void FillRandom(uint64_t seed, std::string& bytes) {
  std::mt19937_64 random(seed);
  size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    const uint64_t word = random();
    std::memcpy(bytes.data() + i, &word, 8);
  }
  for (; i < bytes.size(); ++i) bytes[i] = static_cast<char>(random());
}

Snapshot MakeState(uint64_t seed, size_t bytes) {
  Snapshot snapshot;
  SnapshotManifest& manifest = snapshot.manifest;
  manifest.model_id = "bench";
  manifest.position = manifest.token_count = seed;
  for (const char* name : {"recurrent", "window"}) {
    SnapshotPart part;
    part.name = name;
    part.byte_length = bytes / 2;
    manifest.parts.push_back(part);
    FillRandom(seed * 2 + manifest.parts.size(), snapshot.payloads.emplace_back(bytes / 2, '\0'));
  }
  return snapshot;
}

std::unique_ptr<RedisStore> Open(const std::string& url, uint32_t chunk_bytes) {
  RedisStoreOptions options;
  options.client.url = url;
  options.store.chunk_bytes = chunk_bytes;
  return Must(RedisStore::Create(options));
}

}  // namespace reprise::state_store::redis::bench

int main(int argc, char** argv) {
  using namespace reprise::state_store::redis::bench;
  CLI::App app("Benchmarks of the Redis store");
  int repetitions = 21, idle = 10'000;
  uint32_t chunk_kib = 256;
  size_t only_bytes = 0;
  std::string which = "transfer,idle,sharing";
  app.add_option("--repetitions", repetitions, "Of large states; small ones five times as many");
  app.add_option("--idle", idle, "Idle sessions");
  app.add_option("--chunk-kib", chunk_kib, "Size of chunks");
  app.add_option("--only-bytes", only_bytes, "One size of state only");
  app.add_option("--which", which, "transfer, idle, sharing");
  CLI11_PARSE(app, argc, argv);
  reprise::testing::RedisServer server(
      {.arguments = {"--save", "", "--appendonly", "no"}, .unix_socket = true});
  if (which.find("transfer") != std::string::npos) {
    RunTransfer(server.unix_path(), server.port(), repetitions, chunk_kib << 10, only_bytes);
  }
  if (which.find("idle") != std::string::npos) RunIdle("unix://" + server.unix_path(), idle);
  server.Do({"FLUSHALL"});
  if (which.find("sharing") != std::string::npos) {
    RunSharing("unix://" + server.unix_path(), chunk_kib << 10);
  }
}
