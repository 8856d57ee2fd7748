// Options that all backends share.
#ifndef REPRISE_STATE_STORE_STORE_OPTIONS_H_
#define REPRISE_STATE_STORE_STORE_OPTIONS_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "state_store/lossy.h"
#include "state_store/snapshot.h"

namespace reprise::state_store {

struct StoreOptions {
  uint32_t chunk_bytes = 256 << 10;     // 1..kMaxChunkBytes; may change between runs
  ChunkCodec codec = ChunkCodec::kRaw;  // of chunks written from now on
  int zstd_level = 1;                   // 1..19
  // Which parts may lose precision; see lossy.h. Empty: none, and what is read is what was put.
  std::vector<LossyRule> lossy{};
  // ReadSnapshot gives lossy parts as they are stored. For copies from store to store.
  bool read_as_stored = false;
  uint64_t max_stored_bytes = 0;     // of all chunks; 0: no cap
  int request_ids_per_session = 32;  // remembered commits and rewinds of a session, >= 1
  absl::Duration request_id_ttl = absl::Hours(24);  // after that the sweeper forgets them
  std::string page_token_key{};  // empty: random, so page tokens end with the process
  std::function<absl::Time()> clock = absl::Now;
};

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_STORE_OPTIONS_H_
