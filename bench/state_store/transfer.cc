// Snapshot, resume and fork beside raw SET and GET.
#include <functional>
#include <utility>

#include "bench/state_store/bench.h"
#include "bench/state_store/raw_client.h"

namespace reprise::state_store::redis::bench {
namespace {

struct Timings {
  std::vector<double> store, raw_store, pieces_store;
  std::vector<double> load, raw_load, pieces_load;
  std::vector<double> fork;
};

std::string Concatenated(const Snapshot& snapshot) {
  std::string bytes;
  for (const std::string& payload : snapshot.payloads) bytes += payload;
  return bytes;
}

Timings Measure(RedisStore& store, RawClient& raw, size_t bytes, int repetitions, size_t piece) {
  Timings t;
  Session session = Must(store.CreateSession("bench", {.id = "s"}));
  // The first round warms connections, scripts and the allocator, and is not counted.
  for (int i = 0; i <= repetitions; ++i) {
    const Snapshot snapshot = MakeState(static_cast<uint64_t>(i) + 1, bytes);
    const std::string value = Concatenated(snapshot);
    std::string got;
    // Each measurement writes over what the one before it in its row left, as a session does.
    const double raw_store = Seconds([&] { raw.Set("raw", value); });
    const double raw_load = Seconds([&] { got = raw.Get("raw"); });
    if (got != value) std::exit(1);
    const double store_seconds = Seconds(
        [&] { session = Must(store.PutAndCommit("bench", "s", session.version, snapshot, {})); });
    Snapshot read;
    const double load = Seconds([&] { read = Must(store.ReadSnapshot("bench", "s", "")); });
    if (read.payloads != snapshot.payloads) std::exit(1);
    const double pieces_store = Seconds([&] { raw.SetPieces("pieces", value, piece); });
    const double pieces_load = Seconds([&] { got = raw.GetPieces("pieces", bytes, piece); });
    if (got != value) std::exit(1);
    const std::string name = "fork" + std::to_string(i);
    const double fork =
        Seconds([&] { Must(store.Fork("bench", {.session_id = "s"}, {.id = name})); });
    Must(store.DeleteSession("bench", name));
    if (i == 0) continue;
    t.raw_store.push_back(raw_store);
    t.raw_load.push_back(raw_load);
    t.store.push_back(store_seconds);
    t.load.push_back(load);
    t.pieces_store.push_back(pieces_store);
    t.pieces_load.push_back(pieces_load);
    t.fork.push_back(fork);
  }
  Must(store.DeleteSession("bench", "s"));
  raw.Command({"FLUSHALL"});
  return t;
}

void PrintRow(const char* transport, double megabytes, const char* what,
              const std::vector<double>& ours, const std::vector<double>& raw,
              const std::vector<double>& pieces) {
  const double median = Percentile(ours, 0.5);
  std::printf("| %s | %.1f | %s | %.2f / %.2f | %.2f | %.2f | %.2f | %.0f%% | %.0f%% |\n",
              transport, megabytes, what, median * 1e3, Percentile(ours, 0.99) * 1e3,
              megabytes / 1e3 / median, megabytes / 1e3 / Percentile(raw, 0.5),
              megabytes / 1e3 / Percentile(pieces, 0.5), 100 * Percentile(raw, 0.5) / median,
              100 * Percentile(pieces, 0.5) / median);
  std::fflush(stdout);
}

}  // namespace

void RunTransfer(const std::string& unix_path, uint16_t port, int repetitions, uint32_t chunk_bytes,
                 size_t only_bytes) {
  std::printf(
      "\n| transport | MB | what | ours, ms p50 / p99 | ours, GB/s | raw, one value, GB/s | raw, "
      "pieces, GB/s | of one value | of pieces |\n| --- | --- | --- | --- | --- | --- | --- | --- "
      "| "
      "--- |\n");
  std::vector<std::pair<double, std::vector<double>>> forks;
  for (const bool is_unix : {true, false}) {
    const char* transport = is_unix ? "unix" : "tcp";
    const auto store = Open(
        is_unix ? "unix://" + unix_path : "redis://127.0.0.1:" + std::to_string(port), chunk_bytes);
    RawClient raw = is_unix ? RawClient::Unix(unix_path) : RawClient::Tcp(port);
    for (const size_t bytes :
         {size_t{300'000}, size_t{2'400'000}, size_t{17'000'000}, size_t{84'000'000}}) {
      if (only_bytes != 0 && bytes != only_bytes) continue;
      const int count = bytes > 10'000'000 ? repetitions : repetitions * 5;
      const Timings t = Measure(*store, raw, bytes, count, chunk_bytes);
      const double megabytes = static_cast<double>(bytes) / 1e6;
      PrintRow(transport, megabytes, "store", t.store, t.raw_store, t.pieces_store);
      PrintRow(transport, megabytes, "load", t.load, t.raw_load, t.pieces_load);
      forks.emplace_back(megabytes, t.fork);
    }
  }
  std::printf("\n| MB | fork, ms p50 / p99 |\n| --- | --- |\n");
  for (const auto& [megabytes, seconds] : forks) {
    std::printf("| %.1f | %.3f / %.3f |\n", megabytes, Percentile(seconds, 0.5) * 1e3,
                Percentile(seconds, 0.99) * 1e3);
  }
}

}  // namespace reprise::state_store::redis::bench
