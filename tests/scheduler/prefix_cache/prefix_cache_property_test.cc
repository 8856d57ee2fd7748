// Random operations against a model that keeps every state in a list and looks at all of them.
#include <algorithm>
#include <cmath>
#include <map>
#include <random>

#include "tests/scheduler/prefix_cache/prefix_cache_fixture.h"

namespace reprise::scheduler {
namespace {

// Images are large beside all paths together, so that caps can be counted in states.
constexpr int64_t kStateBytes = 256 << 10;
constexpr int kTenantStates = 8, kTotalStates = 12;
constexpr double kGuaranteedStates = 2.5;  // three states are safe, of four one may go

struct NaiveEntry {
  std::string group;  // tenant, model and context
  std::string tenant;
  Tokens tokens;
  int hits = 0;
  int64_t saved = 0;
  absl::Time last_use{};
  double worth = 0;
};

class NaiveCache {
 public:
  explicit NaiveCache(const PrefixCacheOptions& options) : options_(options) {}

  static std::string Group(const PrefixScope& scope) {
    return scope.tenant + "|" + scope.model + "|" + scope.context;
  }

  int64_t Find(const PrefixScope& scope, const Tokens& tokens, int64_t most, absl::Time now) {
    NaiveEntry* best = nullptr;
    for (NaiveEntry& entry : entries_) {
      const auto length = static_cast<int64_t>(entry.tokens.size());
      if (entry.group == Group(scope) && length <= most && IsPrefix(entry.tokens, tokens) &&
          now - entry.last_use < options_.ttl &&
          (best == nullptr || entry.tokens.size() > best->tokens.size())) {
        best = &entry;
      }
    }
    const int64_t found = best == nullptr ? 0 : static_cast<int64_t>(best->tokens.size());
    if (best != nullptr) {
      ++best->hits;
      Use(*best, now);
    }
    for (int i = 0; i < 4; ++i) {  // on the way, a few that have expired
      const auto oldest = std::min_element(
          entries_.begin(), entries_.end(), [&](const NaiveEntry& a, const NaiveEntry& b) {
            return std::make_pair(a.tenant != scope.tenant, a.last_use) <
                   std::make_pair(b.tenant != scope.tenant, b.last_use);
          });
      if (oldest == entries_.end() || oldest->tenant != scope.tenant ||
          now - oldest->last_use < options_.ttl) {
        break;
      }
      entries_.erase(oldest);
    }
    return found;
  }

  void Insert(const PrefixScope& scope, const Tokens& tokens, absl::Time now) {
    for (NaiveEntry& entry : entries_) {
      if (entry.group == Group(scope) && entry.tokens == tokens) {
        Use(entry, now);
        return;
      }
    }
    while (Count(scope.tenant) >= kTenantStates)
      entries_.erase(entries_.begin() + *Next(scope.tenant));
    while (static_cast<int>(entries_.size()) >= kTotalStates) {
      std::optional<size_t> poorest;
      for (const std::string& tenant : Tenants()) {
        const std::optional<size_t> next = Next(tenant);
        if (tenant != scope.tenant && Count(tenant) - 1 < kGuaranteedStates) continue;
        if (!poorest.has_value() || entries_[*next].worth < entries_[*poorest].worth)
          poorest = next;
      }
      ASSERT_TRUE(poorest.has_value());
      entries_.erase(entries_.begin() + *poorest);
    }
    entries_.push_back({Group(scope), scope.tenant, tokens});
    Use(entries_.back(), now);
  }

  int Count(const std::string& tenant) const {
    return static_cast<int>(std::count_if(entries_.begin(), entries_.end(),
                                          [&](const auto& e) { return e.tenant == tenant; }));
  }
  const std::vector<NaiveEntry>& entries() const { return entries_; }

 private:
  static bool IsPrefix(const Tokens& a, const Tokens& b) {
    return a.size() <= b.size() && std::equal(a.begin(), a.end(), b.begin());
  }
  std::vector<std::string> Tenants() const {
    std::vector<std::string> tenants;
    for (const NaiveEntry& entry : entries_) {
      if (std::find(tenants.begin(), tenants.end(), entry.tenant) == tenants.end()) {
        tenants.push_back(entry.tenant);
      }
    }
    return tenants;
  }
  int64_t Saved(const NaiveEntry& of) const {
    int64_t above = 0;
    for (const NaiveEntry& entry : entries_) {
      if (entry.group == of.group && entry.tokens.size() < of.tokens.size() &&
          IsPrefix(entry.tokens, of.tokens)) {
        above = std::max(above, static_cast<int64_t>(entry.tokens.size()));
      }
    }
    return static_cast<int64_t>(of.tokens.size()) - above;
  }
  void Weigh(NaiveEntry& entry) {
    entry.saved = Saved(entry);
    entry.worth = std::log2(static_cast<double>(entry.saved) * (1 + std::min(entry.hits, 15)) /
                            static_cast<double>(kStateBytes)) +
                  absl::FDivDuration(entry.last_use - absl::UnixEpoch(), options_.half_life);
  }
  void Use(NaiveEntry& entry, absl::Time now) {
    entry.last_use = now;
    Weigh(entry);
  }
  // What the tenant gives up next.
  std::optional<size_t> Next(const std::string& tenant) {
    while (true) {
      std::optional<size_t> least;
      for (size_t i = 0; i < entries_.size(); ++i) {
        if (entries_[i].tenant != tenant) continue;
        if (!least.has_value() || entries_[i].worth < entries_[*least].worth) least = i;
      }
      if (!least.has_value() || Count(tenant) == 1) return least;
      NaiveEntry& entry = entries_[*least];
      if (Saved(entry) == entry.saved) return least;
      Weigh(entry);
    }
  }

  const PrefixCacheOptions options_;
  std::vector<NaiveEntry> entries_;
};

class PrefixCachePropertyTest : public PrefixCacheFixture,
                                public ::testing::WithParamInterface<int> {};

// Conversations that share beginnings: a few system prompts, each continued in a few ways.
Tokens RandomPrompt(std::mt19937& random) {
  Tokens tokens(20 + 10 * (random() % 3), static_cast<int32_t>(random() % 3));
  for (unsigned turns = random() % 4; turns > 0; --turns) {
    const auto turn = static_cast<int32_t>(random() % 3);
    for (unsigned i = 0; i < 3 + 5 * static_cast<unsigned>(turn); ++i) tokens.push_back(turn);
  }
  return tokens;
}

TEST_P(PrefixCachePropertyTest, DoesWhatTheListDoes) {
  PrefixCacheOptions options;
  options.max_tenant_bytes = kTenantStates * kStateBytes + kStateBytes / 2;
  options.max_bytes = kTotalStates * kStateBytes + kStateBytes / 2;
  options.guaranteed_tenant_bytes = static_cast<int64_t>(kGuaranteedStates * kStateBytes);
  options.path_share = 0.011;
  options.ttl = absl::Minutes(20);
  options.half_life = absl::Minutes(2);
  Start(options);
  NaiveCache naive(options);
  std::mt19937 random(GetParam());
  std::map<std::string, std::vector<Tokens>> seen, ever_kept;  // by group
  int hits = 0, partial = 0;
  for (int i = 0; i < 4000; ++i) {
    clock_.Advance(absl::Milliseconds(1 + random() % 20'000));
    if (random() % 300 == 0) clock_.Advance(absl::Minutes(random() % 30));
    // The first tenant does half of everything.
    const PrefixScope scope{"tenant" + std::to_string(random() % 2 == 0 ? 0 : random() % 4),
                            random() % 5 == 0 ? "model2" : "model1",
                            random() % 5 == 0 ? "context" : ""};
    const std::string group = NaiveCache::Group(scope);
    const Tokens tokens = RandomPrompt(random);
    if (random() % 2 == 0) {
      int64_t known = 0;
      for (const Tokens& other : seen[group]) {
        const auto parted = std::mismatch(other.begin(), other.end(), tokens.begin(), tokens.end());
        known = std::max<int64_t>(known, parted.first - other.begin());
      }
      const PrefixMatch match = cache_->Lookup(scope, tokens, tokens.size() - 1);
      const int64_t expected = naive.Find(scope, tokens, tokens.size() - 1, clock_.Now());
      ASSERT_EQ(match.tokens, expected) << "operation " << i;
      if (expected > 0) {
        const absl::Span<const int32_t> path(tokens.data(), expected);
        ASSERT_EQ(*match.image, *MakeImage(scope, path, kStateBytes));
        ++hits;
      } else {
        const bool kept =
            std::any_of(ever_kept[group].begin(), ever_kept[group].end(), [&](const Tokens& path) {
              return path.size() < tokens.size() &&
                     std::equal(path.begin(), path.end(), tokens.begin());
            });
        ASSERT_NE(match.miss, PrefixMiss::kNone);
        ASSERT_NE(match.miss, PrefixMiss::kTenant);
        if (!kept) {
          ASSERT_TRUE(match.miss == PrefixMiss::kNoEntry || match.miss == PrefixMiss::kFingerprint);
        }
      }
      // Paths may have been forgotten, but nothing is made up.
      ASSERT_LE(match.known, known);
      ASSERT_GE(match.known, match.tokens);
      partial += match.known > match.tokens;
      seen[group].push_back(tokens);
    } else {
      ASSERT_TRUE(cache_->Insert(scope, tokens, MakeImage(scope, tokens, kStateBytes)));
      naive.Insert(scope, tokens, clock_.Now());
      seen[group].push_back(tokens);
      ever_kept[group].push_back(tokens);
    }
    const PrefixCacheStats total = cache_->TotalStats();
    ASSERT_LE(total.bytes, options.max_bytes);
    ASSERT_EQ(total.entries, static_cast<int64_t>(naive.entries().size())) << "operation " << i;
    for (int t = 0; t < 4; ++t) {
      const std::string tenant = "tenant" + std::to_string(t);
      ASSERT_EQ(cache_->TenantStats(tenant).entries, naive.Count(tenant)) << "operation " << i;
      ASSERT_LE(cache_->TenantStats(tenant).bytes, options.max_tenant_bytes);
    }
    if (i % 100 == 0) {
      ASSERT_TRUE(cache_->CheckIntegrity().ok());
    }
  }
  // The traffic was one that tells.
  EXPECT_GT(hits, 120);
  EXPECT_GT(partial, 300);
  EXPECT_GT(cache_->TotalStats().evictions, 300);
  EXPECT_GT(cache_->TotalStats().expirations, 3);
  EXPECT_GT(cache_->TotalStats().misses[static_cast<int>(PrefixMiss::kEvicted)], 30);
}

INSTANTIATE_TEST_SUITE_P(Seeds, PrefixCachePropertyTest, ::testing::Range(1, 4));

}  // namespace
}  // namespace reprise::scheduler
