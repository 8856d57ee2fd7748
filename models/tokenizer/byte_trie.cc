#include "models/tokenizer/byte_trie.h"

#include <algorithm>
#include <cstring>

namespace reprise::models {

ByteTrie::ByteTrie(std::vector<std::pair<std::string_view, int32_t>> keys) {
  root_.fill(kNoNode);
  std::erase_if(keys, [](const auto& key) { return key.first.empty(); });
  std::stable_sort(keys.begin(), keys.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  keys.erase(std::unique(keys.begin(), keys.end(),
                         [](const auto& a, const auto& b) { return a.first == b.first; }),
             keys.end());
  // Level by level: each queue entry is a node and the range of keys below it.
  struct Range {
    uint32_t node;
    size_t begin, end, depth;
  };
  std::vector<Range> queue;
  const auto add_children = [&](size_t begin, size_t end, size_t depth) {
    while (begin < end) {
      const uint8_t label = static_cast<uint8_t>(keys[begin].first[depth]);
      size_t stop = begin;
      while (stop < end && static_cast<uint8_t>(keys[stop].first[depth]) == label) ++stop;
      Node node;
      size_t first = begin;
      if (keys[first].first.size() == depth + 1) node.value = keys[first++].second;
      const uint32_t index = static_cast<uint32_t>(nodes_.size());
      nodes_.push_back(node);
      labels_.push_back(label);
      queue.push_back({index, first, stop, depth + 1});
      begin = stop;
    }
  };
  add_children(0, keys.size(), 0);
  for (uint32_t i = 0; i < nodes_.size(); ++i) root_[labels_[i]] = i;
  for (size_t i = 0; i < queue.size(); ++i) {
    const Range range = queue[i];
    const uint32_t first_child = static_cast<uint32_t>(nodes_.size());
    add_children(range.begin, range.end, range.depth);
    nodes_[range.node].first_child = first_child;
    nodes_[range.node].child_count = static_cast<uint32_t>(nodes_.size()) - first_child;
  }
}

uint32_t ByteTrie::Next(uint32_t node, uint8_t byte) const {
  const Node& parent = nodes_[node];
  if (parent.child_count == 0) return kNoNode;
  const uint8_t* begin = labels_.data() + parent.first_child;
  const void* hit = std::memchr(begin, byte, parent.child_count);
  if (hit == nullptr) return kNoNode;
  return parent.first_child + static_cast<uint32_t>(static_cast<const uint8_t*>(hit) - begin);
}

ByteTrie::Match ByteTrie::Longest(std::string_view text) const {
  Match match;
  if (text.empty()) return match;
  uint32_t node = Start(static_cast<uint8_t>(text[0]));
  for (size_t i = 1; node != kNoNode; ++i) {
    if (ValueAt(node) != kNoValue) match = {i, ValueAt(node)};
    if (i == text.size()) break;
    node = Next(node, static_cast<uint8_t>(text[i]));
  }
  return match;
}

}  // namespace reprise::models
