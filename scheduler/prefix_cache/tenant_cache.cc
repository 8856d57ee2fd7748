#include "scheduler/prefix_cache/tenant_cache.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"

namespace reprise::scheduler {
namespace {

constexpr int kMostHitsThatCount = 15;
// Entries whose worth is corrected before one is taken all the same.
constexpr int kMostCorrections = 64;
constexpr size_t kModelsRemembered = 4;

}  // namespace

std::string TenantCache::RootName(const PrefixScope& scope) {
  return absl::StrCat(scope.model.size(), ":", scope.model, scope.context);
}

TenantCache::NodeInfo& TenantCache::Info(NodeId node) {
  if (node >= info_.size()) info_.resize(node + 1);
  return info_[node];
}

void TenantCache::Touch(NodeId node, absl::Time now) {
  NodeInfo& info = Info(node);
  if (IsGhost(node)) {
    ghosts_.erase({info.last_use, node});
    ghosts_.emplace(now, node);
  }
  info.last_use = now;
}

int64_t TenantCache::Saved(NodeId node) const {
  NodeId above = tree_.parent(node);
  while (!tree_.is_root(above) && !entries_.contains(above)) above = tree_.parent(above);
  return tree_.depth(node) - tree_.depth(above);
}

double TenantCache::Worth(const Entry& entry) const {
  const double uses = 1 + std::min(entry.hits, kMostHitsThatCount);
  return std::log2(static_cast<double>(entry.saved) * uses /
                   static_cast<double>(ImageBytes(entry))) +
         absl::FDivDuration(entry.last_use - absl::UnixEpoch(), options_.half_life);
}

void TenantCache::Use(NodeId node, Entry& entry, absl::Time now) {
  by_worth_.erase({entry.worth, node});
  by_use_.erase({entry.last_use, node});
  entry.last_use = now;
  entry.saved = Saved(node);
  entry.worth = Worth(entry);
  by_worth_.emplace(entry.worth, node);
  by_use_.emplace(entry.last_use, node);
}

PrefixMatch TenantCache::Find(const PrefixScope& scope, absl::Span<const int32_t> tokens,
                              int64_t most, absl::Time now) {
  PrefixMatch match;
  counters_.lookup_tokens += static_cast<int64_t>(tokens.size());
  const NodeId root = tree_.FindRoot(RootName(scope));
  walked_.clear();
  match.known = tree_.Follow(root, tokens, [&](NodeId node) { walked_.push_back(node); }).matched;
  if (root != PrefixTree::kNone) Info(root).last_use = now;
  for (NodeId node : walked_) Touch(node, now);
  NodeId best = PrefixTree::kNone;
  for (auto node = walked_.rbegin(); node != walked_.rend(); ++node) {
    if (tree_.depth(*node) > most) continue;
    const auto entry = entries_.find(*node);
    if (entry != entries_.end() && !Expired(entry->second, now)) {
      best = *node;
      break;
    }
    const PrefixMiss gone = entry != entries_.end() ? PrefixMiss::kExpired : info_[*node].gone;
    if (match.miss == PrefixMiss::kNone) match.miss = gone;
  }
  if (best != PrefixTree::kNone) {
    Entry& entry = entries_.find(best)->second;
    ++entry.hits;
    Use(best, entry, now);
    match.image = entry.image;
    match.tokens = tree_.depth(best);
    ++counters_.hits;
    counters_.hit_tokens += match.tokens;
  } else {
    if (match.miss == PrefixMiss::kNone) {
      match.miss = OtherModelHas(scope, tokens) ? PrefixMiss::kFingerprint : PrefixMiss::kNoEntry;
    }
    ++counters_.misses[static_cast<int>(match.miss)];
  }
  return match;
}

bool TenantCache::TouchEntry(const PrefixScope& scope, absl::Span<const int32_t> tokens,
                             absl::Time now) {
  const PrefixTree::Walk walk =
      tree_.Follow(tree_.FindRoot(RootName(scope)), tokens, [](NodeId) {});
  if (walk.depth < static_cast<int64_t>(tokens.size())) return false;
  const auto entry = entries_.find(walk.node);
  if (entry == entries_.end()) return false;
  Use(walk.node, entry->second, now);
  return true;
}

int64_t TenantCache::FindLongest(const PrefixScope& scope, absl::Span<const int32_t> tokens,
                                 int64_t most, absl::Time now) const {
  int64_t longest = 0;
  tree_.Follow(tree_.FindRoot(RootName(scope)), tokens, [&](NodeId node) {
    const auto entry = entries_.find(node);
    if (tree_.depth(node) <= most && entry != entries_.end() && !Expired(entry->second, now)) {
      longest = tree_.depth(node);
    }
  });
  return longest;
}

int64_t TenantCache::FindSpilled(const PrefixScope& scope, absl::Span<const int32_t> tokens,
                                 int64_t most, absl::Time now) const {
  int64_t spilled = 0;
  tree_.Follow(tree_.FindRoot(RootName(scope)), tokens, [&](NodeId node) {
    if (tree_.depth(node) > most) return;
    const auto entry = entries_.find(node);
    if (entry != entries_.end() && !Expired(entry->second, now)) {
      spilled = 0;
    } else if (info_[node].spilled) {
      spilled = tree_.depth(node);
    }
  });
  return spilled;
}

bool TenantCache::OtherModelHas(const PrefixScope& scope, absl::Span<const int32_t> tokens) const {
  bool has = false;
  for (const std::string& model : models_) {
    if (model == scope.model) continue;
    const NodeId root = tree_.FindRoot(RootName({scope.tenant, model, scope.context}));
    tree_.Follow(root, tokens, [&](NodeId node) { has |= entries_.contains(node); });
  }
  return has;
}

void TenantCache::NoteModel(const std::string& model) {
  const auto found = std::find(models_.begin(), models_.end(), model);
  if (found != models_.end()) {
    std::rotate(models_.begin(), found, found + 1);
    return;
  }
  models_.insert(models_.begin(), model);
  if (models_.size() > kModelsRemembered) models_.pop_back();
}

int64_t TenantCache::Cost(const PrefixScope& scope, absl::Span<const int32_t> tokens,
                          int64_t image_bytes) const {
  const std::string root_name = RootName(scope);
  const int64_t path = tree_.ExtendBytes(root_name, tokens);
  if (image_bytes == 0 || path > 0) return path + image_bytes;
  const PrefixTree::Walk walk = tree_.Follow(tree_.FindRoot(root_name), tokens, [](NodeId) {});
  return entries_.contains(walk.node) ? 0 : image_bytes;
}

void TenantCache::Add(const PrefixScope& scope, absl::Span<const int32_t> tokens, StateImage image,
                      bool from_spill, absl::Time now) {
  const std::string root_name = RootName(scope);
  const NodeId root = tree_.FindRoot(root_name);
  const PrefixTree::Walk walk = tree_.Follow(root, tokens, [](NodeId) {});
  // It may get a child.
  if (walk.node != PrefixTree::kNone && IsGhost(walk.node)) {
    ghosts_.erase({info_[walk.node].last_use, walk.node});
  }
  const NodeId node = tree_.Extend(root_name, tokens);
  NoteModel(scope.model);
  for (NodeId above = node; above != PrefixTree::kNone; above = tree_.parent(above)) {
    NodeInfo& info = Info(above);
    if (info.last_use != absl::InfinitePast()) break;
    info.last_use = now;  // new
  }
  if (image != nullptr) {
    auto [found, inserted] = entries_.try_emplace(node);
    Entry& entry = found->second;
    if (inserted) {
      entry.image = std::move(image);
      image_bytes_ += ImageBytes(entry);
      entry.last_use = now;
      info_[node].gone = PrefixMiss::kNone;
      ++counters_.inserts;
    }
    Use(node, entry, now);
    if (from_spill) {
      info_[node].spilled = true;
      info_[node].shared = options_.spill->shares();
    } else if (inserted) {
      ShareEntry(node, entry);
    }
  }
  if (IsGhost(node)) {
    info_[node].last_use = now;
    ghosts_.emplace(now, node);
  }
}

void TenantCache::ShareEntry(NodeId node, const Entry& entry) {
  NodeInfo& info = info_[node];
  if (options_.spill == nullptr || !options_.spill->shares() || info.spilled ||
      entry.saved < options_.spill_min_tokens) {
    return;
  }
  info.spilled = info.shared = true;
  spilled_.push_back({tree_.RootName(node), tree_.PathTo(node), entry.image, true});
}

TenantCache::Victim TenantCache::NextVictim() {
  for (int i = 0; i < kMostCorrections && by_worth_.size() > 1; ++i) {
    const NodeId node = by_worth_.begin()->second;
    Entry& entry = entries_.find(node)->second;
    const int64_t saved = Saved(node);
    if (saved == entry.saved) break;
    by_worth_.erase(by_worth_.begin());
    entry.saved = saved;
    entry.worth = Worth(entry);
    by_worth_.emplace(entry.worth, node);
  }
  if (!by_worth_.empty()) {
    const auto [worth, node] = *by_worth_.begin();
    // A node that is joined with its child after it comes free, too.
    return {true, worth, ImageBytes(entries_.find(node)->second) + PrefixTree::kNodeBytes};
  }
  if (ghosts_.empty()) return {};
  return {true, std::numeric_limits<double>::lowest(), tree_.bytes()};
}

void TenantCache::Evict(absl::Time now) {
  if (by_worth_.empty()) {
    TrimGhost();
    return;
  }
  const NodeId node = by_worth_.begin()->second;
  Drop(node,
       Expired(entries_.find(node)->second, now) ? PrefixMiss::kExpired : PrefixMiss::kEvicted);
}

void TenantCache::Drop(NodeId node, PrefixMiss reason) {
  const auto found = entries_.find(node);
  Entry& entry = found->second;
  NodeInfo& info = info_[node];
  image_bytes_ -= ImageBytes(entry);
  by_worth_.erase({entry.worth, node});
  by_use_.erase({entry.last_use, node});
  if (reason == PrefixMiss::kEvicted && options_.spill != nullptr &&
      (!info.spilled || info.shared) && entry.saved >= options_.spill_min_tokens) {
    info.spilled = true;
    info.shared = false;
    spilled_.push_back({tree_.RootName(node), tree_.PathTo(node), std::move(entry.image)});
    ++counters_.spilled;
  }
  counters_.evictions += reason == PrefixMiss::kEvicted;
  counters_.expirations += reason == PrefixMiss::kExpired;
  info.gone = reason;
  entries_.erase(found);
  Settle(node);
}

void TenantCache::TrimGhost() {
  const NodeId node = ghosts_.begin()->second;
  ghosts_.erase(ghosts_.begin());
  info_[node] = NodeInfo();
  Settle(tree_.RemoveLeaf(node));
}

void TenantCache::Settle(NodeId node) {
  if (entries_.contains(node)) return;
  if (tree_.is_root(node)) {
    if (tree_.num_children(node) > 0) return;
    info_[node] = NodeInfo();
    tree_.RemoveLeaf(node);
    return;
  }
  if (tree_.num_children(node) == 0) {
    ghosts_.emplace(info_[node].last_use, node);
    return;
  }
  const NodeInfo& info = info_[node];
  if (tree_.num_children(node) == 1 && info.gone == PrefixMiss::kNone && !info.spilled) {
    info_[node] = NodeInfo();
    tree_.JoinWithChild(node);
  }
}

bool TenantCache::MakePathRoom(int64_t bytes, int64_t cap, absl::Time now) {
  while (tree_.bytes() + bytes > cap) {
    if (!ghosts_.empty()) {
      TrimGhost();
    } else if (!by_worth_.empty()) {
      NextVictim();
      Evict(now);
    } else {
      return false;
    }
  }
  return true;
}

void TenantCache::Expire(absl::Time now, int most) {
  for (; most > 0 && !by_use_.empty(); --most) {
    const NodeId node = by_use_.begin()->second;
    if (!Expired(entries_.find(node)->second, now)) return;
    Drop(node, PrefixMiss::kExpired);
  }
}

void TenantCache::Erase(const PrefixScope& scope, absl::Span<const int32_t> tokens) {
  const std::string root_name = RootName(scope);
  std::vector<NodeId> nodes;
  tree_.Follow(tree_.FindRoot(root_name), tokens, [&](NodeId node) {
    if (entries_.contains(node) || info_[node].spilled) nodes.push_back(node);
  });
  for (auto node = nodes.rbegin(); node != nodes.rend(); ++node) {
    if (info_[*node].spilled) {
      info_[*node].spilled = info_[*node].shared = false;
      spilled_.push_back({root_name, tree_.PathTo(*node), nullptr});
    }
    if (entries_.contains(*node)) Drop(*node, PrefixMiss::kNone);
  }
}

void TenantCache::ForgetSpilled(const PrefixScope& scope, absl::Span<const int32_t> tokens) {
  const PrefixTree::Walk walk =
      tree_.Follow(tree_.FindRoot(RootName(scope)), tokens, [](NodeId) {});
  if (walk.node != PrefixTree::kNone && walk.depth == static_cast<int64_t>(tokens.size())) {
    info_[walk.node].spilled = info_[walk.node].shared = false;
  }
}

void TenantCache::Clear() {
  tree_ = PrefixTree();
  info_.clear();
  entries_.clear();
  by_worth_.clear();
  by_use_.clear();
  ghosts_.clear();
  models_.clear();
  image_bytes_ = 0;
}

PrefixCacheStats TenantCache::stats() const {
  PrefixCacheStats stats = counters_;
  stats.entries = static_cast<int64_t>(entries_.size());
  stats.bytes = bytes();
  stats.path_bytes = tree_.bytes();
  return stats;
}

bool TenantCache::CheckIntegrity() const {
  if (!tree_.CheckIntegrity()) return false;
  int64_t bytes = 0;
  for (const auto& [node, entry] : entries_) {
    bytes += ImageBytes(entry);
    if (!by_worth_.contains({entry.worth, node}) || !by_use_.contains({entry.last_use, node})) {
      return false;
    }
  }
  for (const auto& [last_use, node] : ghosts_) {
    if (!IsGhost(node) || info_[node].last_use != last_use) return false;
  }
  return bytes == image_bytes_ && by_worth_.size() == entries_.size() &&
         by_use_.size() == entries_.size();
}

}  // namespace reprise::scheduler
