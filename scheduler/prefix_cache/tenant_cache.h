// One tenant's part of the prefix cache.
#ifndef REPRISE_SCHEDULER_PREFIX_CACHE_TENANT_CACHE_H_
#define REPRISE_SCHEDULER_PREFIX_CACHE_TENANT_CACHE_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "scheduler/prefix_cache/prefix_cache.h"
#include "scheduler/prefix_cache/prefix_tree.h"

namespace reprise::scheduler {

// The tree, the states in it, and the order in which they go. Knows no caps but that of the paths:
// whoever adds makes room first. Not thread-safe.
class TenantCache {
 public:
  // A state on its way to the spill, or out of it.
  struct Spilled {
    std::string root;
    std::vector<int32_t> tokens;
    StateImage image;        // null: to be erased there
    bool kept_here = false;  // it goes there for others only
  };
  // What would go next: its worth (lowest() if it is only a path) and the bytes that come free.
  struct Victim {
    bool exists = false;
    double worth = 0;
    int64_t bytes = 0;
  };

  explicit TenantCache(const PrefixCacheOptions& options) : options_(options) {}

  // Names a root; also what a spill key is made of.
  static std::string RootName(const PrefixScope& scope);

  PrefixMatch Find(const PrefixScope& scope, absl::Span<const int32_t> tokens, int64_t most,
                   absl::Time now);

  // Of PrefixCache.
  bool TouchEntry(const PrefixScope& scope, absl::Span<const int32_t> tokens, absl::Time now);
  // The length of what Find would find; counts nothing.
  int64_t FindLongest(const PrefixScope& scope, absl::Span<const int32_t> tokens, int64_t most,
                      absl::Time now) const;
  int64_t FindSpilled(const PrefixScope& scope, absl::Span<const int32_t> tokens, int64_t most,
                      absl::Time now) const;

  // What Add would add to bytes(). image_bytes 0: the path only.
  int64_t Cost(const PrefixScope& scope, absl::Span<const int32_t> tokens,
               int64_t image_bytes) const;
  int64_t PathCost(const PrefixScope& scope, absl::Span<const int32_t> tokens) const {
    return tree_.ExtendBytes(RootName(scope), tokens);
  }
  // Adds the path, and the state at its end unless `image` is null.
  void Add(const PrefixScope& scope, absl::Span<const int32_t> tokens, StateImage image,
           bool from_spill, absl::Time now);

  Victim NextVictim();
  // Lets it go. There must be one.
  void Evict(absl::Time now);
  // Makes room for that many more bytes of paths within `cap`. False when they never fit.
  bool MakePathRoom(int64_t bytes, int64_t cap, absl::Time now);
  // Drops expired entries, at most `most`.
  void Expire(absl::Time now, int most);

  // Drops every entry along the path and marks nothing.
  void Erase(const PrefixScope& scope, absl::Span<const int32_t> tokens);
  // The spill has not, or no longer, what it was given.
  void ForgetSpilled(const PrefixScope& scope, absl::Span<const int32_t> tokens);
  void Clear();

  int64_t bytes() const { return image_bytes_ + tree_.bytes(); }
  PrefixCacheStats& counters() { return counters_; }
  PrefixCacheStats stats() const;
  std::vector<Spilled> TakeSpilled() { return std::exchange(spilled_, {}); }
  bool CheckIntegrity() const;

 private:
  using NodeId = PrefixTree::NodeId;

  struct Entry {
    StateImage image;
    int64_t saved = 0;
    int hits = 0;
    absl::Time last_use;
    double worth = 0;
  };
  struct NodeInfo {
    absl::Time last_use = absl::InfinitePast();
    PrefixMiss gone = PrefixMiss::kNone;  // why the state that was here is not
    bool spilled = false;                 // the spill was given it
    bool shared = false;  // for others only: when it is evicted, it goes there once more
  };

  static int64_t ImageBytes(const Entry& entry) {
    return static_cast<int64_t>(entry.image->size());
  }
  bool IsGhost(NodeId node) const {
    return !tree_.is_root(node) && tree_.num_children(node) == 0 && !entries_.contains(node);
  }
  bool Expired(const Entry& entry, absl::Time now) const {
    return now - entry.last_use >= options_.ttl;
  }
  NodeInfo& Info(NodeId node);
  void Touch(NodeId node, absl::Time now);
  int64_t Saved(NodeId node) const;
  double Worth(const Entry& entry) const;
  void Use(NodeId node, Entry& entry, absl::Time now);
  void ShareEntry(NodeId node, const Entry& entry);
  void Drop(NodeId node, PrefixMiss reason);
  void TrimGhost();
  // After a node lost its entry or a child: removes, joins or lists it.
  void Settle(NodeId node);
  bool OtherModelHas(const PrefixScope& scope, absl::Span<const int32_t> tokens) const;
  void NoteModel(const std::string& model);

  const PrefixCacheOptions& options_;
  PrefixTree tree_;
  std::vector<NodeInfo> info_;  // by node; unused nodes have the default
  absl::flat_hash_map<NodeId, Entry> entries_;
  absl::btree_set<std::pair<double, NodeId>> by_worth_;
  absl::btree_set<std::pair<absl::Time, NodeId>> by_use_;
  absl::btree_set<std::pair<absl::Time, NodeId>> ghosts_;  // leaves without an entry
  std::vector<std::string> models_;                        // seen last, a few
  int64_t image_bytes_ = 0;
  PrefixCacheStats counters_;
  std::vector<Spilled> spilled_;
  std::vector<NodeId> walked_;
};

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_PREFIX_CACHE_TENANT_CACHE_H_
