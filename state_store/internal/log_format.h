// The bytes of the disk store's log and checkpoint. docs/snapshot-format.md describes them; the
// numbers are frozen.
#ifndef REPRISE_STATE_STORE_INTERNAL_LOG_FORMAT_H_
#define REPRISE_STATE_STORE_INTERNAL_LOG_FORMAT_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace reprise::state_store {

inline constexpr size_t kLogHeaderBytes = 48;
inline constexpr size_t kFrameHeaderBytes = 32;

struct LogHeader {
  uint64_t generation = 0;
  uint64_t first_sequence = 0;
  uint64_t salt = 0;  // random; mixed into each frame's checksum, so that a record's contents
                      // cannot pose as a frame
};

// One record in a log.
struct LogFrame {
  uint64_t sequence = 0;        // one more than the frame before
  uint64_t chunks_durable = 0;  // the chunks of all records up to this one are on stable storage
  std::string_view payload;
  size_t offset = 0;  // of the frame in the log
};

struct LogScan {
  LogHeader header;
  std::vector<LogFrame> frames;
  size_t valid_bytes = 0;  // what follows is a torn tail
};

std::string EncodeLogHeader(const LogHeader& header);
std::string EncodeFrame(uint64_t salt, uint64_t sequence, uint64_t chunks_durable,
                        std::string_view payload);

// Frames view `bytes`. What cannot be read at the end is a torn tail, unless an intact frame
// follows it: then something in the middle is damaged, which is DATA_LOSS (kCorruptIndex).
absl::StatusOr<LogScan> ScanLog(std::string_view bytes);

struct Checkpoint {
  uint64_t generation = 0;  // of the log that goes on from here
  uint64_t sequence = 0;    // of the last record in it
  std::vector<std::string_view> records;
};

std::string EncodeCheckpoint(uint64_t generation, uint64_t sequence,
                             const std::vector<std::string>& records);
// Records view `bytes`. Any damage is DATA_LOSS (kCorruptIndex).
absl::StatusOr<Checkpoint> DecodeCheckpoint(std::string_view bytes);

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_INTERNAL_LOG_FORMAT_H_
