// Where an embedded store keeps chunks and log records: memory, or files.
#ifndef REPRISE_STATE_STORE_INTERNAL_LOCAL_BACKEND_H_
#define REPRISE_STATE_STORE_INTERNAL_LOCAL_BACKEND_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/hash.h"
#include "state_store/snapshot.h"

namespace reprise::state_store {

struct StoredChunk {
  Sha256Digest digest{};
  uint64_t length = 0;
};

enum class Compaction {
  kNone,
  kUseful,    // the log has grown long
  kRequired,  // Append fails until Compact has succeeded
};

// Chunk calls and Flush are thread-safe. Append and Compact are called by one thread at a time.
class LocalBackend {
 public:
  virtual ~LocalBackend() = default;

  // Replaces what is there under this digest, which holds the same raw bytes.
  virtual absl::Status PutChunk(const Sha256Digest& digest, std::string_view stored) = 0;
  // The stored bytes, unverified. DATA_LOSS (kCorruptChunk) if there are none.
  virtual absl::StatusOr<std::string> GetChunk(const ChunkRef& ref) = 0;
  virtual absl::Status RemoveChunk(const Sha256Digest& digest) = 0;
  virtual absl::StatusOr<std::vector<StoredChunk>> ListChunks() = 0;

  // With `sync`, all chunks put before and all records up to this one are on stable storage when
  // it returns. After an error the record is not there, nor does it come back on reopening unless
  // the process ends before a later Append or Compact succeeds.
  virtual absl::Status Append(std::string_view record, bool sync) = 0;
  virtual Compaction compaction() = 0;
  // Replaces all records so far by `records`.
  virtual absl::Status Compact(const std::vector<std::string>& records) = 0;
  // Brings everything put and appended so far to stable storage.
  virtual absl::Status Flush() = 0;
  // Numbers of the last record appended, and of the last on stable storage.
  virtual uint64_t appended() = 0;
  virtual uint64_t durable() = 0;
};

std::unique_ptr<LocalBackend> MakeMemoryBackend();

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_INTERNAL_LOCAL_BACKEND_H_
