// The store in a directory of one machine, for one process at a time.
//
//   LOCK                   flock'ed while open
//   checkpoint             the whole index at one moment, with the number of the log that goes on
//   log.<n>                index changes since then
//   chunks/ab/cd/<sha256>  the bytes
//
// A chunk is renamed into place before the log names it, and removed only after the record that
// lets go of it is durable; see docs/snapshot-format.md, "The directory of the disk store".
#ifndef REPRISE_STATE_STORE_DISK_STORE_H_
#define REPRISE_STATE_STORE_DISK_STORE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "state_store/session_store.h"
#include "state_store/store_options.h"

namespace reprise::state_store {

class FileSystem;

struct DiskStoreOptions {
  std::string directory{};  // made if missing; its parent must exist
  StoreOptions store{};
  // kAsync commits reach the device within this time; <= 0: only with the next kSync commit,
  // compaction or close.
  absl::Duration flush_interval = absl::Milliseconds(200);
  uint64_t compact_log_bytes = 16 << 20;  // log length at which it is folded into a checkpoint, > 0
  FileSystem* file_system = nullptr;      // borrowed; null: the machine's own
};

// What opening found. Anything but zeros and empty lists is worth a line in the log and a metric.
struct RecoveryReport {
  bool clean = false;              // the store was closed in order, or is new
  uint64_t records = 0;            // replayed from the log
  uint64_t cut_bytes = 0;          // of a torn tail, removed
  uint64_t orphan_chunks = 0;      // chunk files that nothing named, removed
  uint64_t temporary_files = 0;    // left by a crash, removed
  std::vector<std::string> notes;  // one sentence for each cut, removal or damaged chunk
};

struct OpenedDiskStore {
  std::unique_ptr<SessionStore> store;
  RecoveryReport report;
};

// FAILED_PRECONDITION (kStoreLocked) while another process has it; DATA_LOSS (kCorruptIndex) when
// the checkpoint or the middle of the log is damaged: the store refuses to open, and changes
// nothing, rather than forget sessions. A torn tail of the log is what a crash leaves: it is cut
// and reported. A missing or damaged chunk costs its snapshots only: reading them is DATA_LOSS.
absl::StatusOr<OpenedDiskStore> OpenDiskStore(const DiskStoreOptions& options);

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_DISK_STORE_H_
