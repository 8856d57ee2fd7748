// The records of sessions as this process saw them last. Another process may have changed them
// since: whoever goes by one must compare-and-set on its revision, and read anew if that fails.
#ifndef REPRISE_STATE_STORE_REDIS_RECORD_CACHE_H_
#define REPRISE_STATE_STORE_REDIS_RECORD_CACHE_H_

#include <cstddef>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "state_store/redis/record.h"

namespace reprise::state_store::redis {

struct KnownRecord {
  std::string rev;
  SessionRecord record;
  std::shared_ptr<const SnapshotManifest> head;  // of record.session.head_snapshot_id
};

// Thread-safe. Keeps the `capacity` sessions that were put or found last; names them by their keys.
class RecordCache {
 public:
  explicit RecordCache(size_t capacity) : capacity_(capacity) {}

  std::shared_ptr<const KnownRecord> Find(const std::string& key) ABSL_LOCKS_EXCLUDED(mu_);
  void Put(const std::string& key, KnownRecord known) ABSL_LOCKS_EXCLUDED(mu_);
  void Forget(const std::string& key) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  using Entry = std::pair<std::string, std::shared_ptr<const KnownRecord>>;

  const size_t capacity_;
  absl::Mutex mu_;
  std::list<Entry> entries_ ABSL_GUARDED_BY(mu_);  // the last used first
  std::unordered_map<std::string, std::list<Entry>::iterator> places_ ABSL_GUARDED_BY(mu_);
};

}  // namespace reprise::state_store::redis

#endif  // REPRISE_STATE_STORE_REDIS_RECORD_CACHE_H_
