#include "scheduler/prefix_cache/prefix_tree.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

namespace reprise::scheduler {
namespace {

using Tokens = std::vector<int32_t>;
using NodeId = PrefixTree::NodeId;

int64_t CommonLength(const Tokens& a, const Tokens& b) {
  size_t i = 0;
  while (i < a.size() && i < b.size() && a[i] == b[i]) ++i;
  return static_cast<int64_t>(i);
}

TEST(PrefixTreeTest, AnEmptyTreeKnowsNothing) {
  const PrefixTree tree;
  EXPECT_EQ(tree.FindRoot("r"), PrefixTree::kNone);
  const auto walk = tree.Follow(PrefixTree::kNone, Tokens{1, 2}, [](NodeId) { FAIL(); });
  EXPECT_EQ(walk.node, PrefixTree::kNone);
  EXPECT_EQ(walk.matched, 0);
  EXPECT_EQ(tree.bytes(), 0);
  EXPECT_TRUE(tree.CheckIntegrity());
}

TEST(PrefixTreeTest, SplitsAnEdgeAtAnyToken) {
  PrefixTree tree;
  const NodeId whole = tree.Extend("r", Tokens{1, 2, 3, 4, 5});
  const NodeId middle = tree.Extend("r", Tokens{1, 2, 3});
  const NodeId other = tree.Extend("r", Tokens{1, 2, 7});
  EXPECT_EQ(tree.Extend("r", Tokens{1, 2, 3, 4, 5}), whole);
  EXPECT_EQ(tree.PathTo(whole), (Tokens{1, 2, 3, 4, 5}));
  EXPECT_EQ(tree.PathTo(middle), (Tokens{1, 2, 3}));
  EXPECT_EQ(tree.PathTo(other), (Tokens{1, 2, 7}));
  EXPECT_EQ(tree.parent(whole), middle);
  EXPECT_EQ(tree.parent(middle), tree.parent(other));
  std::vector<int64_t> depths;
  const auto walk = tree.Follow(tree.FindRoot("r"), Tokens{1, 2, 3, 4, 9},
                                [&](NodeId node) { depths.push_back(tree.depth(node)); });
  EXPECT_EQ(depths, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(walk.matched, 4);
  EXPECT_EQ(walk.depth, 3);
  EXPECT_TRUE(tree.CheckIntegrity());
}

TEST(PrefixTreeTest, RootsAreApart) {
  PrefixTree tree;
  const NodeId a = tree.Extend("a", Tokens{1, 2}), b = tree.Extend("b", Tokens{1, 2});
  EXPECT_NE(a, b);
  EXPECT_EQ(tree.RootName(a), "a");
  EXPECT_EQ(tree.RootName(b), "b");
  EXPECT_EQ(tree.FindRoot("c"), PrefixTree::kNone);
}

TEST(PrefixTreeTest, RandomPathsAgainstASetOfThem) {
  std::mt19937 random(3);
  PrefixTree tree;
  std::map<Tokens, NodeId> paths;  // leaves and inner nodes that were asked for
  for (int i = 0; i < 4000; ++i) {
    Tokens tokens(1 + random() % 30);
    for (int32_t& token : tokens) token = static_cast<int32_t>(random() % 3);
    if (random() % 3 == 0 && !paths.empty()) {  // often along a known one
      auto known = paths.lower_bound(tokens);
      if (known == paths.end()) known = paths.begin();
      Tokens longer = known->first;
      longer.resize(1 + random() % longer.size());
      longer.insert(longer.end(), tokens.begin(), tokens.end());
      tokens = longer;
    }
    int64_t matched = 0;
    for (const auto& [path, node] : paths) matched = std::max(matched, CommonLength(path, tokens));
    std::set<NodeId> visited;
    const auto walk =
        tree.Follow(tree.FindRoot("r"), tokens, [&](NodeId node) { visited.insert(node); });
    ASSERT_EQ(walk.matched, matched);
    for (const auto& [path, node] : paths) {
      const bool on_the_way = CommonLength(path, tokens) == static_cast<int64_t>(path.size());
      ASSERT_EQ(visited.contains(node), on_the_way);
    }
    if (random() % 4 == 0 && !paths.empty()) {  // drop a leaf and what it leaves behind
      auto victim = paths.lower_bound(tokens);
      if (victim == paths.end()) victim = std::prev(paths.end());
      const NodeId node = victim->second;
      if (tree.num_children(node) == 0) {
        paths.erase(victim);
        const NodeId parent = tree.RemoveLeaf(node);
        const bool kept = std::any_of(paths.begin(), paths.end(),
                                      [&](const auto& path) { return path.second == parent; });
        if (tree.is_root(parent)) {
          if (tree.num_children(parent) == 0) tree.RemoveLeaf(parent);
        } else if (!kept && tree.num_children(parent) == 1) {
          tree.JoinWithChild(parent);
        }
      }
    } else {
      const int64_t before = tree.bytes(), expected = tree.ExtendBytes("r", tokens);
      const NodeId node = tree.Extend("r", tokens);
      ASSERT_EQ(tree.bytes() - before, expected);
      ASSERT_EQ(tree.PathTo(node), tokens);
      paths[tokens] = node;
    }
    if (i % 20 == 0) {
      ASSERT_TRUE(tree.CheckIntegrity());
    }
  }
  EXPECT_GT(paths.size(), 1000u);
}

TEST(PrefixTreeTest, ADeepChainNeedsNoStack) {
  PrefixTree tree;
  constexpr int kDeep = 20'000;
  Tokens tokens(kDeep, 1);
  tree.Extend("r", tokens);
  // A node at every token, from the end, so that each split is short.
  for (int length = kDeep - 1; length > 0; --length) {
    tree.Extend("r", absl::MakeConstSpan(tokens).first(length));
  }
  int visited = 0;
  tree.Follow(tree.FindRoot("r"), tokens, [&](NodeId) { ++visited; });
  EXPECT_EQ(visited, kDeep);
  EXPECT_EQ(tree.num_nodes(), kDeep + 1);
  EXPECT_TRUE(tree.CheckIntegrity());
}

}  // namespace
}  // namespace reprise::scheduler
