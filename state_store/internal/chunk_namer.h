// Names chunks ahead of whoever sends them: digest and checksum cost about as much time as sending.
#ifndef REPRISE_STATE_STORE_INTERNAL_CHUNK_NAMER_H_
#define REPRISE_STATE_STORE_INTERNAL_CHUNK_NAMER_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/hash.h"

namespace reprise::state_store {

struct ChunkName {
  Sha256Digest digest{};  // see ChunkDigest
  uint64_t checksum = 0;  // XXH3 of the raw bytes
};

// For one caller; what it does in other threads ends with it.
class ChunkNamer {
 public:
  // Borrows the bytes that `chunks` names. With less than a few chunks to name it does so when
  // asked.
  ChunkNamer(std::string_view tenant, std::vector<std::string_view> chunks);
  ~ChunkNamer();
  ChunkNamer(const ChunkNamer&) = delete;
  ChunkNamer& operator=(const ChunkNamer&) = delete;

  // Waits for it, and meanwhile helps. Quick when asked in order.
  const ChunkName& At(size_t index);

  const std::vector<std::string_view>& chunks() const { return chunks_; }

 private:
  // False if all are named or in work.
  bool NameOne();

  const std::string tenant_;
  const std::vector<std::string_view> chunks_;
  std::vector<ChunkName> names_;
  const std::unique_ptr<std::atomic<int>[]> done_;  // per chunk: 1 if named
  std::atomic<size_t> next_ = 0;
  std::vector<std::thread> threads_;
};

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_INTERNAL_CHUNK_NAMER_H_
