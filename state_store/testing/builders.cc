#include "state_store/testing/builders.h"

#include <random>
#include <utility>

namespace reprise::state_store {

std::string PatternBytes(uint64_t seed, size_t size) {
  std::mt19937_64 random(seed);
  std::string bytes(size, '\0');
  for (char& c : bytes) c = static_cast<char>(random());
  return bytes;
}

Snapshot MakeTestSnapshot(uint64_t seed, size_t window_bytes) {
  Snapshot snapshot;
  SnapshotManifest& m = snapshot.manifest;
  m.model_id = "test-model";
  m.weights_fingerprint = std::string(64, 'a');
  m.tokenizer_fingerprint = std::string(64, 'b');
  m.layout_digest = std::string(64, 'c');
  m.kernel_order_id = "cpu-1";
  m.position = seed + 1;
  m.token_count = seed + 2;
  m.token_hash = ExtendTokenHash({}, static_cast<int32_t>(seed));
  m.legs = {{"sampler", PatternBytes(seed + 1000, 40)}, {"pending_tokens", "\x01\x02"}};
  m.labels = {{"seed", std::to_string(seed)}};
  SnapshotPart lru;
  lru.name = "layers.0.rg_lru";
  lru.dtype = "f32";
  lru.shape = {24};
  lru.byte_length = 96;
  SnapshotPart window;
  window.name = "layers.1.kv_window.k";
  window.dtype = "u8";
  window.shape = {1, window_bytes};
  window.byte_length = window_bytes;
  m.parts = {lru, window};
  snapshot.payloads = {PatternBytes(seed, 96), PatternBytes(seed + 1, window_bytes)};
  return snapshot;
}

bool SameState(const Snapshot& put, const Snapshot& read) {
  const SnapshotManifest& a = put.manifest;
  const SnapshotManifest& b = read.manifest;
  if (a.parts.size() != b.parts.size()) return false;
  for (size_t i = 0; i < a.parts.size(); ++i) {
    if (a.parts[i].name != b.parts[i].name || a.parts[i].dtype != b.parts[i].dtype ||
        a.parts[i].shape != b.parts[i].shape) {
      return false;
    }
  }
  return put.payloads == read.payloads && a.model_id == b.model_id && a.position == b.position &&
         a.token_count == b.token_count && a.token_hash == b.token_hash && a.legs == b.legs &&
         a.labels == b.labels && a.weights_fingerprint == b.weights_fingerprint &&
         a.tokenizer_fingerprint == b.tokenizer_fingerprint && a.layout_digest == b.layout_digest &&
         a.kernel_order_id == b.kernel_order_id && a.grid_tokens == b.grid_tokens;
}

}  // namespace reprise::state_store
