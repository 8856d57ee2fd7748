// Bytes stored for successive turns and forks of one session, with the shapes of a hybrid of two
// billion parameters: 18 recurrent layers of width 2560 whose state changes wholly in each turn,
// and 8 attention layers with a ring of 2048 positions, of which a turn writes as many as it has
// tokens.
#include <algorithm>
#include <cstring>

#include "bench/state_store/bench.h"

namespace reprise::state_store::redis::bench {
namespace {

constexpr int kRecurrentLayers = 18, kWindowLayers = 8;
constexpr size_t kRecurrentBytes = 2560 * (3 * 4 + 3 * 2);  // RG-LRU in f32, convolution in bf16
constexpr size_t kRow = 256 * 2, kWindow = 2048;            // one key or value in bf16

class Conversation {
 public:
  Conversation() {
    SnapshotManifest& manifest = snapshot_.manifest;
    manifest.model_id = "bench";
    for (int i = 0; i < kRecurrentLayers; ++i)
      Add("recurrent." + std::to_string(i), kRecurrentBytes);
    for (int i = 0; i < 2 * kWindowLayers; ++i) Add("window." + std::to_string(i), kWindow * kRow);
    Turn(kWindow);
  }

  // Equal turns of one branch bring equal bytes.
  void Turn(size_t tokens, uint64_t branch = 0) {
    seed_ += branch << 32;
    for (size_t p = 0; p < snapshot_.payloads.size(); ++p) {
      std::string& bytes = snapshot_.payloads[p];
      if (p < kRecurrentLayers) {
        FillRandom(++seed_, bytes);
        continue;
      }
      std::string row(kRow, '\0');
      for (size_t t = 0; t < std::min(tokens, kWindow); ++t) {
        FillRandom(++seed_, row);
        std::memcpy(bytes.data() + (position_ + t) % kWindow * kRow, row.data(), kRow);
      }
    }
    position_ += tokens;
    snapshot_.manifest.position = snapshot_.manifest.token_count = position_;
  }

  const Snapshot& snapshot() const { return snapshot_; }

 private:
  void Add(std::string name, size_t bytes) {
    SnapshotPart part;
    part.name = std::move(name);
    part.byte_length = bytes;
    snapshot_.manifest.parts.push_back(std::move(part));
    snapshot_.payloads.emplace_back(bytes, '\0');
  }

  Snapshot snapshot_;
  uint64_t seed_ = 0;
  size_t position_ = 0;
};

// `states`: how many copies there would be without sharing.
void PrintStats(RedisStore& store, const char* what, int states) {
  const StoreStats stats = Must(store.Stats("bench"));
  const double each =
      static_cast<double>(stats.logical_bytes) / static_cast<double>(stats.snapshots);
  const double stored = static_cast<double>(stats.stored_bytes);
  std::printf("| %s | %d | %.1f | %.1f | %.1fx |\n", what, states, each * states / 1e6,
              stored / 1e6, each * states / stored);
}

}  // namespace

void RunSharing(const std::string& url, uint32_t chunk_bytes) {
  const auto store = Open(url, chunk_bytes);
  for (const size_t tokens : {size_t{40}, size_t{250}}) {
    std::printf(
        "\n| chunks of %u KiB, turns of %zu tokens | states | without sharing, MB | stored, MB | "
        "ratio |\n| --- | --- | --- | --- | --- |\n",
        chunk_bytes >> 10, tokens);
    Conversation conversation;
    Session session = Must(store->CreateSession("bench", {.id = "s"}));
    const auto commit = [&](const std::string& id, uint64_t version) {
      return Must(
          store->PutAndCommit("bench", id, version, conversation.snapshot(), {.keep = true}));
    };
    session = commit("s", session.version);
    PrintStats(*store, "first turn", 1);
    for (int turn = 1; turn < 20; ++turn) {
      conversation.Turn(tokens);
      session = commit("s", session.version);
    }
    PrintStats(*store, "20 turns, all kept", 20);
    std::vector<Session> forks;
    for (int i = 0; i < 50; ++i) {
      const std::string id = "fork-" + std::to_string(i);
      forks.push_back(Must(store->Fork("bench", {.session_id = "s"}, {.id = id})));
    }
    PrintStats(*store, "and 50 forks", 70);
    const Conversation branch = conversation;
    for (int i = 0; i < 50; ++i) {
      conversation = branch;
      conversation.Turn(tokens, /*branch=*/i + 1);
      commit(forks[i].id, forks[i].version);
    }
    PrintStats(*store, "and a turn of its own in each fork", 120);
    for (int i = 0; i < 50; ++i) Must(store->DeleteSession("bench", "fork-" + std::to_string(i)));
    Must(store->DeleteSession("bench", "s"));
  }
}

}  // namespace reprise::state_store::redis::bench
