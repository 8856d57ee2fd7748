// A radix tree over tokens: which prompts were seen, and where along them something is kept.
#ifndef REPRISE_SCHEDULER_PREFIX_CACHE_PREFIX_TREE_H_
#define REPRISE_SCHEDULER_PREFIX_CACHE_PREFIX_TREE_H_

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"

namespace reprise::scheduler {

// Each edge carries any number of tokens, so that a path costs its length and not its number of
// tokens in nodes. Nodes lie in one array and every walk is a loop: neither a long nor a deep path
// can exhaust a stack. Several roots, one by name. Not thread-safe.
class PrefixTree {
 public:
  using NodeId = uint32_t;
  static constexpr NodeId kNone = UINT32_MAX;
  // What a node counts for beside its tokens, 4 bytes each: about what it takes with its share of
  // the maps.
  static constexpr int64_t kNodeBytes = 160;

  // How far a walk went along known paths.
  struct Walk {
    NodeId node = kNone;  // the deepest whose whole path matched; kNone without a root
    int64_t depth = 0;    // of that node
    int64_t matched = 0;  // tokens; more than depth where the walk ended within an edge
  };

  // The root of that name, or kNone.
  NodeId FindRoot(const std::string& name) const;
  // Names of all roots, in no order.
  template <typename Visit>
  void ForEachRoot(Visit visit) const {
    for (const auto& [name, node] : roots_) visit(name, node);
  }

  // Follows `tokens` from `root` (which may be kNone). visit(node) for every node but the root
  // whose path is a prefix of `tokens`, ascending.
  template <typename Visit>
  Walk Follow(NodeId root, absl::Span<const int32_t> tokens, Visit visit) const {
    Walk walk{root, 0, 0};
    while (walk.node != kNone && walk.depth < static_cast<int64_t>(tokens.size())) {
      const auto child = children_.find({walk.node, tokens[walk.depth]});
      if (child == children_.end()) break;
      const std::vector<int32_t>& edge = nodes_[child->second].edge;
      const int64_t common = CommonLength(edge, tokens.subspan(walk.depth));
      walk.matched = walk.depth + common;
      if (common < static_cast<int64_t>(edge.size())) break;
      walk.node = child->second;
      walk.depth += common;
      visit(walk.node);
    }
    return walk;
  }

  // The node at the end of `tokens` below the root of that name; both are made when missing.
  // `tokens` must not be empty.
  NodeId Extend(const std::string& root_name, absl::Span<const int32_t> tokens);
  // What Extend would add to bytes().
  int64_t ExtendBytes(const std::string& root_name, absl::Span<const int32_t> tokens) const;

  // Removes a node without children. Then, upwards, a root or a node left without children is not
  // removed by itself: the caller looks at the returned parent (kNone when the root went, too).
  NodeId RemoveLeaf(NodeId node);
  // Joins a node that has exactly one child with it; the child's id stays.
  void JoinWithChild(NodeId node);

  NodeId parent(NodeId node) const { return nodes_[node].parent; }
  bool is_root(NodeId node) const { return nodes_[node].parent == kNone; }
  int num_children(NodeId node) const { return nodes_[node].num_children; }
  int64_t depth(NodeId node) const { return nodes_[node].depth; }
  // Tokens from the root to the node, and the root's name.
  std::vector<int32_t> PathTo(NodeId node) const;
  const std::string& RootName(NodeId node) const;

  int64_t bytes() const { return bytes_; }
  int num_nodes() const { return static_cast<int>(nodes_.size() - free_.size()); }
  // Recomputes what is counted and linked; true when all agrees.
  bool CheckIntegrity() const;

 private:
  struct Node {
    NodeId parent = kNone;
    NodeId first_child = kNone, next = kNone, previous = kNone;  // siblings
    int num_children = 0;
    int64_t depth = 0;  // tokens from the root
    std::vector<int32_t> edge;
    std::string root_name;  // of a root
  };

  static int64_t CommonLength(absl::Span<const int32_t> a, absl::Span<const int32_t> b) {
    const size_t most = std::min(a.size(), b.size());
    return std::mismatch(a.begin(), a.begin() + most, b.begin()).first - a.begin();
  }

  NodeId NewNode();
  void FreeNode(NodeId node);
  void Link(NodeId parent, NodeId child);
  void Unlink(NodeId child);
  NodeId Add(NodeId parent, absl::Span<const int32_t> edge);
  NodeId Split(NodeId child, int64_t at);

  std::vector<Node> nodes_;
  std::vector<NodeId> free_;
  absl::flat_hash_map<std::pair<NodeId, int32_t>, NodeId> children_;  // by an edge's first token
  absl::flat_hash_map<std::string, NodeId> roots_;
  int64_t bytes_ = 0;
};

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_PREFIX_CACHE_PREFIX_TREE_H_
