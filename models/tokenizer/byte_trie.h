// A read-only trie over byte strings, for finding the keys that begin at a place in a text.
#ifndef REPRISE_MODELS_TOKENIZER_BYTE_TRIE_H_
#define REPRISE_MODELS_TOKENIZER_BYTE_TRIE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace reprise::models {

class ByteTrie {
 public:
  static constexpr uint32_t kNoNode = 0xFFFFFFFF;
  static constexpr int32_t kNoValue = -1;

  ByteTrie() { root_.fill(kNoNode); }
  // Values must not be negative; empty keys are left out; of equal keys the first one counts.
  explicit ByteTrie(std::vector<std::pair<std::string_view, int32_t>> keys);

  bool empty() const { return nodes_.empty(); }
  // The node for the one-byte string `byte`, then for one more byte each time.
  uint32_t Start(uint8_t byte) const { return root_[byte]; }
  uint32_t Next(uint32_t node, uint8_t byte) const;
  int32_t ValueAt(uint32_t node) const { return nodes_[node].value; }

  struct Match {
    size_t length = 0;  // 0: no key begins here
    int32_t value = kNoValue;
  };
  Match Longest(std::string_view text) const;

 private:
  struct Node {
    uint32_t first_child = 0;  // children lie side by side, their labels ascending
    uint32_t child_count = 0;
    int32_t value = kNoValue;
  };
  std::array<uint32_t, 256> root_;
  std::vector<Node> nodes_;
  std::vector<uint8_t> labels_;  // [nodes], the byte that leads to each node
};

}  // namespace reprise::models

#endif  // REPRISE_MODELS_TOKENIZER_BYTE_TRIE_H_
