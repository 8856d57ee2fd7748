#include "scheduler/prefix_cache/prefix_tree.h"

namespace reprise::scheduler {
namespace {

int64_t TokenBytes(size_t tokens) { return static_cast<int64_t>(tokens * sizeof(int32_t)); }

int64_t RootBytes(const std::string& name) {
  return PrefixTree::kNodeBytes + static_cast<int64_t>(name.size());
}

}  // namespace

PrefixTree::NodeId PrefixTree::FindRoot(const std::string& name) const {
  const auto root = roots_.find(name);
  return root == roots_.end() ? kNone : root->second;
}

PrefixTree::NodeId PrefixTree::NewNode() {
  if (free_.empty()) {
    nodes_.emplace_back();
    return static_cast<NodeId>(nodes_.size() - 1);
  }
  const NodeId node = free_.back();
  free_.pop_back();
  return node;
}

void PrefixTree::FreeNode(NodeId node) {
  nodes_[node] = Node();
  free_.push_back(node);
}

void PrefixTree::Link(NodeId parent, NodeId child) {
  nodes_[child].parent = parent;
  nodes_[child].previous = kNone;
  nodes_[child].next = nodes_[parent].first_child;
  if (nodes_[child].next != kNone) nodes_[nodes_[child].next].previous = child;
  nodes_[parent].first_child = child;
  ++nodes_[parent].num_children;
  children_[{parent, nodes_[child].edge.front()}] = child;
}

void PrefixTree::Unlink(NodeId child) {
  const Node& node = nodes_[child];
  if (node.previous != kNone) {
    nodes_[node.previous].next = node.next;
  } else {
    nodes_[node.parent].first_child = node.next;
  }
  if (node.next != kNone) nodes_[node.next].previous = node.previous;
  --nodes_[node.parent].num_children;
  children_.erase({node.parent, node.edge.front()});
}

PrefixTree::NodeId PrefixTree::Add(NodeId parent, absl::Span<const int32_t> edge) {
  const NodeId node = NewNode();
  nodes_[node].edge.assign(edge.begin(), edge.end());
  nodes_[node].depth = nodes_[parent].depth + static_cast<int64_t>(edge.size());
  Link(parent, node);
  bytes_ += kNodeBytes + TokenBytes(edge.size());
  return node;
}

// Puts a node into the child's edge, after `at` of its tokens.
PrefixTree::NodeId PrefixTree::Split(NodeId child, int64_t at) {
  const NodeId parent = nodes_[child].parent;
  Unlink(child);
  const std::vector<int32_t> edge = std::move(nodes_[child].edge);
  const absl::Span<const int32_t> tokens(edge);
  const NodeId middle = Add(parent, tokens.first(at));
  bytes_ -= TokenBytes(at);  // they were counted in the child's edge
  nodes_[child].edge.assign(edge.begin() + at, edge.end());
  Link(middle, child);
  return middle;
}

PrefixTree::NodeId PrefixTree::Extend(const std::string& root_name,
                                      absl::Span<const int32_t> tokens) {
  auto [entry, inserted] = roots_.try_emplace(root_name, kNone);
  if (inserted) {
    entry->second = NewNode();
    nodes_[entry->second].root_name = root_name;
    bytes_ += RootBytes(root_name);
  }
  const NodeId root = entry->second;
  const Walk walk = Follow(root, tokens, [](NodeId) {});
  if (walk.depth == static_cast<int64_t>(tokens.size())) return walk.node;
  NodeId node = walk.node;
  if (walk.matched > walk.depth) {
    node = Split(children_.at({node, tokens[walk.depth]}), walk.matched - walk.depth);
  }
  if (walk.matched == static_cast<int64_t>(tokens.size())) return node;
  return Add(node, tokens.subspan(walk.matched));
}

int64_t PrefixTree::ExtendBytes(const std::string& root_name,
                                absl::Span<const int32_t> tokens) const {
  const NodeId root = FindRoot(root_name);
  const Walk walk = Follow(root, tokens, [](NodeId) {});
  int64_t bytes = root == kNone ? RootBytes(root_name) : 0;
  if (walk.matched > walk.depth) bytes += kNodeBytes;
  if (walk.matched < static_cast<int64_t>(tokens.size())) {
    bytes += kNodeBytes + TokenBytes(tokens.size() - walk.matched);
  }
  return bytes;
}

PrefixTree::NodeId PrefixTree::RemoveLeaf(NodeId node) {
  const NodeId parent = nodes_[node].parent;
  if (parent == kNone) {
    const std::string name = RootName(node);
    bytes_ -= RootBytes(name);
    roots_.erase(name);
  } else {
    bytes_ -= kNodeBytes + TokenBytes(nodes_[node].edge.size());
    Unlink(node);
  }
  FreeNode(node);
  return parent;
}

void PrefixTree::JoinWithChild(NodeId node) {
  const NodeId child = nodes_[node].first_child;
  const NodeId parent = nodes_[node].parent;
  Unlink(child);
  Unlink(node);
  std::vector<int32_t> edge;
  edge.reserve(nodes_[node].edge.size() + nodes_[child].edge.size());
  edge.insert(edge.end(), nodes_[node].edge.begin(), nodes_[node].edge.end());
  edge.insert(edge.end(), nodes_[child].edge.begin(), nodes_[child].edge.end());
  nodes_[child].edge = std::move(edge);
  Link(parent, child);
  FreeNode(node);
  bytes_ -= kNodeBytes;
}

std::vector<int32_t> PrefixTree::PathTo(NodeId node) const {
  std::vector<int32_t> tokens(nodes_[node].depth);
  for (auto end = tokens.end(); !is_root(node); node = nodes_[node].parent) {
    end = std::copy_backward(nodes_[node].edge.begin(), nodes_[node].edge.end(), end);
  }
  return tokens;
}

const std::string& PrefixTree::RootName(NodeId node) const {
  while (!is_root(node)) node = nodes_[node].parent;
  return nodes_[node].root_name;
}

bool PrefixTree::CheckIntegrity() const {
  int64_t bytes = 0;
  size_t reached = 0, edges = 0;
  std::vector<NodeId> open;
  for (const auto& [name, root] : roots_) {
    bytes += RootBytes(name);
    if (nodes_[root].depth != 0 || !nodes_[root].edge.empty()) return false;
    open.push_back(root);
  }
  while (!open.empty()) {
    const NodeId node = open.back();
    open.pop_back();
    ++reached;
    int children = 0;
    for (NodeId child = nodes_[node].first_child; child != kNone; child = nodes_[child].next) {
      const std::vector<int32_t>& edge = nodes_[child].edge;
      if (edge.empty() || nodes_[child].parent != node ||
          nodes_[child].depth != nodes_[node].depth + static_cast<int64_t>(edge.size())) {
        return false;
      }
      const auto found = children_.find({node, edge.front()});
      if (found == children_.end() || found->second != child) return false;
      bytes += kNodeBytes + TokenBytes(edge.size());
      ++children;
      ++edges;
      open.push_back(child);
    }
    if (children != nodes_[node].num_children) return false;
  }
  return bytes == bytes_ && edges == children_.size() && static_cast<int>(reached) == num_nodes();
}

}  // namespace reprise::scheduler
