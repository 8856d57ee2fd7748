// Blobs in memory that fail, hang and rot when a test says so.
#ifndef REPRISE_STATE_STORE_TESTING_MEMORY_BLOBS_H_
#define REPRISE_STATE_STORE_TESTING_MEMORY_BLOBS_H_

#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "state_store/blob_store.h"

namespace reprise::state_store {

// Thread-safe. Bounds nothing and forgets nothing.
class MemoryBlobs {
 public:
  // One server's way to them. The blobs must outlive it.
  std::unique_ptr<BlobStore> Connect();

  // Every call fails with it from now on; OK: none.
  void Fail(absl::Status status);
  // Calls wait until Release.
  void Hold();
  void Release();
  // Rewrites every blob, or every note.
  void ChangeBlobs(const std::function<void(std::string&)>& change);
  void ChangeNotes(const std::function<void(std::string&)>& change);
  size_t size() const;
  std::string only_blob() const;
  int calls() const;  // that have begun
  // A letter for each: Put, Get, Erase, AddNote, Notes.
  std::string log() const;

 private:
  class Connection;
  using Key = std::pair<std::string, Sha256Digest>;
  absl::Status Enter(char letter);

  mutable absl::Mutex mutex_;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  bool held_ ABSL_GUARDED_BY(mutex_) = false;
  std::string log_ ABSL_GUARDED_BY(mutex_);
  std::map<Key, std::string> blobs_ ABSL_GUARDED_BY(mutex_);
  std::map<Key, std::set<std::string>> notes_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_TESTING_MEMORY_BLOBS_H_
