#include "scheduler/prefix_cache/prefix_cache.h"

#include <gmock/gmock.h>

#include "tests/scheduler/prefix_cache/prefix_cache_fixture.h"

namespace reprise::scheduler {
namespace {

using ::testing::HasSubstr;

class PrefixCacheTest : public PrefixCacheFixture {};

TEST_F(PrefixCacheTest, FindsTheLongestAtAnyToken) {
  for (int length : {7, 64, 65, 300}) EXPECT_TRUE(Insert(Iota(length)));
  EXPECT_EQ(Lookup(Iota(8)).tokens, 7);
  EXPECT_EQ(Lookup(Iota(65)).tokens, 64);  // the last token has to be computed
  EXPECT_EQ(Lookup(Iota(66)).tokens, 65);
  EXPECT_EQ(Lookup(Iota(1000)).tokens, 300);
  Tokens other = Iota(1000);
  other[100] = -1;
  EXPECT_EQ(Lookup(other).tokens, 65);
  EXPECT_EQ(Lookup(Iota(7)).miss, PrefixMiss::kNoEntry);
  const PrefixCacheStats stats = cache_->TenantStats("t");
  EXPECT_EQ(stats.hits, 5);
  EXPECT_EQ(stats.hit_tokens, 7 + 64 + 65 + 300 + 65);
  EXPECT_EQ(stats.lookup_tokens, 8 + 65 + 66 + 1000 + 1000 + 7);
  EXPECT_EQ(stats.misses[static_cast<int>(PrefixMiss::kNoEntry)], 1);
  EXPECT_EQ(stats.entries, 4);
  EXPECT_EQ(stats.inserts, 4);
}

TEST_F(PrefixCacheTest, RemembersPromptsWithoutAState) {
  EXPECT_EQ(Lookup(Iota(500)).known, 0);
  Tokens second = Iota(500);
  second[123] = -1;
  EXPECT_EQ(Lookup(second).known, 123);
  EXPECT_EQ(Lookup(Iota(500)).known, 500);
  EXPECT_EQ(Lookup(Iota(600)).known, 500);
}

TEST_F(PrefixCacheTest, ContextsAndModelsAreApart) {
  ASSERT_TRUE(Insert(Iota(50)));
  EXPECT_EQ(Miss(Iota(60), {"t", "m", "state 1"}), PrefixMiss::kNoEntry);
  EXPECT_EQ(Miss(Iota(60), {"t", "other", ""}), PrefixMiss::kFingerprint);
  // Names that run into each other.
  ASSERT_TRUE(Insert(Iota(50), {"t", "m1", "2"}));
  EXPECT_EQ(Miss(Iota(60), {"t", "m", "12"}), PrefixMiss::kNoEntry);
  EXPECT_EQ(Lookup(Iota(60), {"t", "m1", "2"}).tokens, 50);
}

TEST_F(PrefixCacheTest, AStateThatIsThereIsNotCountedTwice) {
  ASSERT_TRUE(Insert(Iota(50)));
  const PrefixCacheStats before = cache_->TenantStats("t");
  EXPECT_TRUE(Insert(Iota(50)));
  EXPECT_EQ(cache_->TenantStats("t").bytes, before.bytes);
  EXPECT_EQ(cache_->TenantStats("t").entries, 1);
}

TEST_F(PrefixCacheTest, TouchTellsWhetherAStateIsThereAndUsesIt) {
  Start(RoomFor(2));
  EXPECT_FALSE(cache_->Touch({"t", "m", ""}, Iota(50)));
  ASSERT_TRUE(Insert(Iota(50)));
  ASSERT_TRUE(Insert(Iota(50, 1000)));
  clock_.Advance(absl::Seconds(1));
  EXPECT_TRUE(cache_->Touch({"t", "m", ""}, Iota(50)));
  EXPECT_FALSE(cache_->Touch({"t", "m", ""}, Iota(49)));
  EXPECT_FALSE(cache_->Touch({"t", "m", ""}, Iota(51)));
  ASSERT_TRUE(Insert(Iota(50, 2000)));
  EXPECT_EQ(Lookup(Iota(51)).tokens, 50);
}

TEST_F(PrefixCacheTest, HeldImagesOutliveTheirEntries) {
  Start(RoomFor(1));
  ASSERT_TRUE(Insert(Iota(50)));
  const PrefixMatch held = Lookup(Iota(60));
  ASSERT_TRUE(Insert(Iota(50, 100)));
  EXPECT_EQ(Miss(Iota(60)), PrefixMiss::kEvicted);
  cache_->Clear("t");
  EXPECT_EQ(*held.image, *MakeImage({"t", "m", ""}, Iota(50), kImage));
}

TEST_F(PrefixCacheTest, TheOldestOfEqualsGoes) {
  Start(RoomFor(3));
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(Insert(Iota(50, 1000 * i)));
    clock_.Advance(absl::Seconds(1));
  }
  // Once by a lookup, once by inserting it again.
  for (int i = 1; i < 3; ++i) EXPECT_EQ(Lookup(Iota(51, 1000 * i)).tokens, 50);
  ASSERT_TRUE(Insert(Iota(50, 5000)));
  EXPECT_EQ(Miss(Iota(51, 0)), PrefixMiss::kEvicted);
  for (int i : {1, 2, 5}) EXPECT_EQ(Lookup(Iota(51, 1000 * i)).tokens, 50) << i;
}

TEST_F(PrefixCacheTest, WhatSavesMoreStays) {
  Start(RoomFor(2));
  ASSERT_TRUE(Insert(Iota(4000)));
  clock_.Advance(absl::Seconds(1));
  ASSERT_TRUE(Insert(Iota(50, 10'000)));
  clock_.Advance(absl::Seconds(1));
  ASSERT_TRUE(Insert(Iota(50, 20'000)));
  EXPECT_EQ(Lookup(Iota(4001)).tokens, 4000);
  EXPECT_EQ(Miss(Iota(51, 10'000)), PrefixMiss::kEvicted);
  // But not for ever: 80 times the tokens are worth some six half-lives.
  clock_.Advance(absl::Minutes(40));
  ASSERT_TRUE(Insert(Iota(50, 30'000)));
  clock_.Advance(absl::Seconds(1));
  ASSERT_TRUE(Insert(Iota(50, 40'000)));
  EXPECT_EQ(Miss(Iota(4001)), PrefixMiss::kEvicted);
}

TEST_F(PrefixCacheTest, APrefixOfAnotherCountsOnlyWhatItSavesBeyondTheOneAbove) {
  Start(RoomFor(2));
  ASSERT_TRUE(Insert(Iota(4000)));
  ASSERT_TRUE(Insert(Iota(4010)));  // saves 10
  ASSERT_TRUE(Insert(Iota(50, 10'000)));
  EXPECT_EQ(Lookup(Iota(4011)).tokens, 4000);
  EXPECT_EQ(Lookup(Iota(51, 10'000)).tokens, 50);
}

TEST_F(PrefixCacheTest, WhatIsLeftBelowAnEvictedPrefixCountsItsTokensToo) {
  Start(RoomFor(2));
  ASSERT_TRUE(Insert(Iota(4000)));
  ASSERT_TRUE(Insert(Iota(4010)));
  clock_.Advance(absl::Hours(0.9));
  EXPECT_EQ(Lookup(Iota(4011)).tokens, 4010);  // saves 10, but just used
  ASSERT_TRUE(Insert(Iota(50, 10'000)));       // 4000 has to go
  EXPECT_EQ(Lookup(Iota(4001)).miss, PrefixMiss::kEvicted);
  ASSERT_TRUE(Insert(Iota(50, 20'000)));
  // 4010 saves 4010 now: the younger one of 50 went.
  EXPECT_EQ(Lookup(Iota(4011)).tokens, 4010);
  EXPECT_EQ(Miss(Iota(51, 10'000)), PrefixMiss::kEvicted);
}

TEST_F(PrefixCacheTest, ManyHitsAreWorthMore) {
  Start(RoomFor(2));
  ASSERT_TRUE(Insert(Iota(100)));
  for (int i = 0; i < 5; ++i) EXPECT_EQ(Lookup(Iota(101)).tokens, 100);
  clock_.Advance(absl::Seconds(1));
  ASSERT_TRUE(Insert(Iota(100, 1000)));
  ASSERT_TRUE(Insert(Iota(100, 2000)));
  EXPECT_EQ(Lookup(Iota(101)).tokens, 100);
  EXPECT_EQ(Miss(Iota(101, 1000)), PrefixMiss::kEvicted);
}

TEST_F(PrefixCacheTest, WhatNobodyUsesExpires) {
  ASSERT_TRUE(Insert(Iota(50)));
  ASSERT_TRUE(Insert(Iota(70)));
  clock_.Advance(absl::Minutes(59));
  EXPECT_EQ(Lookup(Iota(60)).tokens, 50);
  clock_.Advance(absl::Minutes(59));
  const PrefixMatch match = Lookup(Iota(80));
  EXPECT_EQ(match.tokens, 50);  // 70 was not used meanwhile
  EXPECT_EQ(match.miss, PrefixMiss::kExpired);
  clock_.Advance(absl::Minutes(60));
  EXPECT_EQ(Miss(Iota(60)), PrefixMiss::kExpired);
  EXPECT_EQ(cache_->TenantStats("t").expirations, 2);
  EXPECT_EQ(cache_->TenantStats("t").entries, 0);
}

TEST_F(PrefixCacheTest, SweepDropsWhatExpired) {
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(Insert(Iota(50, 100 * i), {"t", "m", ""}));
  ASSERT_TRUE(Insert(Iota(50), {"u", "m", ""}));
  clock_.Advance(absl::Hours(1));
  cache_->Sweep();
  EXPECT_EQ(cache_->TotalStats().entries, 0);
  EXPECT_EQ(cache_->TotalStats().expirations, 21);
}

TEST_F(PrefixCacheTest, ATenantWithoutACacheIsToldSo) {
  PrefixCacheOptions options;
  options.tenant_bytes = [](const std::string& tenant) {
    return tenant == "none" ? int64_t{0} : int64_t{1} << 20;
  };
  Start(options);
  EXPECT_FALSE(Insert(Iota(50), {"none", "m", ""}));
  EXPECT_EQ(Miss(Iota(60), {"none", "m", ""}), PrefixMiss::kTenant);
  EXPECT_EQ(cache_->TenantStats("none").bytes, 0);
  EXPECT_TRUE(Insert(Iota(50)));
}

TEST_F(PrefixCacheTest, TooLargeIsRefusedAndLosesNothing) {
  Start(RoomFor(2));
  ASSERT_TRUE(Insert(Iota(50)));
  const PrefixScope scope{"t", "m", ""};
  EXPECT_FALSE(cache_->Insert(scope, Iota(60), MakeImage(scope, Iota(60), 3 * kImage)));
  EXPECT_FALSE(cache_->Insert(scope, Iota(60), nullptr));
  EXPECT_FALSE(cache_->Insert(scope, {}, MakeImage(scope, {}, 10)));
  // A path beyond what paths may take.
  EXPECT_FALSE(Insert(Tokens(1'000'000, 1)));
  EXPECT_EQ(Lookup(Tokens(1'000'000, 1)).known, 0);
  EXPECT_EQ(Lookup(Tokens(1'000'000, 1)).known, 0);
  EXPECT_EQ(Lookup(Iota(51)).tokens, 50);
  EXPECT_EQ(cache_->TenantStats("t").refusals, 4);
}

TEST_F(PrefixCacheTest, PathsGiveWayToPathsAndKeepTheirShare) {
  Start(RoomFor(2));
  ASSERT_TRUE(Insert(Iota(50)));
  for (int i = 0; i < 200; ++i) {
    Lookup(Iota(1000, 10'000 * i));
    const PrefixCacheStats stats = cache_->TenantStats("t");
    ASSERT_LE(stats.path_bytes, 0.25 * 2.5 * kImage);
  }
  EXPECT_EQ(Lookup(Iota(1000, 10'000 * 199)).known, 1000);
  EXPECT_EQ(Lookup(Iota(1000, 0)).known, 50);  // that of the entry stays
  EXPECT_EQ(Lookup(Iota(51)).tokens, 50);
}

TEST_F(PrefixCacheTest, OthersCannotEvictBelowTheGuaranteedShare) {
  PrefixCacheOptions options = RoomFor(10);
  options.path_share = 0.02;
  options.guaranteed_tenant_bytes = 3 * kImage + kImage / 2;
  Start(options);
  const PrefixScope quiet{"quiet", "m", ""}, loud{"loud", "m", ""};
  for (int i = 0; i < 6; ++i) ASSERT_TRUE(Insert(Iota(50, 1000 * i), quiet));
  clock_.Advance(absl::Minutes(30));  // everything of quiet is worth less
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(Insert(Iota(500, 1000 * i), loud));
  EXPECT_EQ(cache_->TenantStats("quiet").entries, 4);
  EXPECT_EQ(cache_->TenantStats("loud").entries, 6);
  // And takes it back, though loud's are worth more.
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(Insert(Iota(33, 1000 * i), quiet));
  EXPECT_GE(cache_->TenantStats("quiet").entries, 4);
  EXPECT_GE(cache_->TenantStats("loud").entries, 4);
}

TEST_F(PrefixCacheTest, AShareSmallerThanAStateGuaranteesNothing) {
  Start(RoomFor(3));
  for (int tenant = 0; tenant < 8; ++tenant) {
    clock_.Advance(absl::Seconds(1));
    EXPECT_TRUE(Insert(Iota(50), {"tenant" + std::to_string(tenant), "m", ""})) << tenant;
  }
  EXPECT_EQ(cache_->TotalStats().entries, 3);
  EXPECT_EQ(Lookup(Iota(51), {"tenant7", "m", ""}).tokens, 50);
}

TEST_F(PrefixCacheTest, TenantsSeeNothingOfEachOther) {
  const PrefixScope a{"a", "m", ""}, b{"b", "m", ""};
  ASSERT_TRUE(Insert(Iota(50), a));
  const PrefixMatch match = Lookup(Iota(60), b);
  EXPECT_EQ(match.tokens, 0);
  EXPECT_EQ(match.known, 0);
  EXPECT_EQ(match.miss, PrefixMiss::kNoEntry);  // not "tenant": that would tell
  EXPECT_EQ(Miss(Iota(60), {"b", "other", ""}), PrefixMiss::kNoEntry);
  const PrefixCacheStats before = cache_->TenantStats("a");
  for (int i = 0; i < 100; ++i) Insert(Iota(50, i), b);
  const PrefixCacheStats after = cache_->TenantStats("a");
  EXPECT_EQ(after.bytes, before.bytes);
  EXPECT_EQ(after.inserts, before.inserts);
  EXPECT_EQ(after.misses, before.misses);
  cache_->Clear("b");
  EXPECT_EQ(Lookup(Iota(60), a).tokens, 50);
  EXPECT_EQ(cache_->TenantStats("b").entries, 0);
  EXPECT_EQ(cache_->TenantStats("b").inserts, 100);
}

TEST_F(PrefixCacheTest, EraseDropsEveryStateAlongThePath) {
  for (int length : {10, 20, 30, 40}) ASSERT_TRUE(Insert(Iota(length)));
  Tokens side = Iota(25);
  side[21] = -1;
  ASSERT_TRUE(Insert(side));
  cache_->Erase({"t", "m", ""}, Iota(35));
  EXPECT_EQ(Lookup(Iota(60)).tokens, 40);
  EXPECT_EQ(Lookup(Iota(40)).tokens, 0);
  side.push_back(1);
  EXPECT_EQ(Lookup(side).tokens, 25);
  EXPECT_EQ(cache_->TenantStats("t").entries, 2);
}

class PrefixSpillTest : public PrefixCacheFixture {
 protected:
  void SetUp() override { Start(SpillingOptions(spill_)); }

  static PrefixCacheOptions SpillingOptions(std::shared_ptr<PrefixSpill> spill) {
    PrefixCacheOptions options = RoomFor(1);
    options.spill = std::move(spill);
    options.spill_min_tokens = 40;
    return options;
  }

  absl::Status Fetch(const Tokens& tokens, int64_t bytes = kImage,
                     const PrefixScope& scope = {"t", "m", ""}) {
    absl::Status status = absl::UnknownError("not called");
    cache_->Fetch(scope, tokens, bytes, [&](absl::StatusOr<StateImage> image) {
      status = image.status();
      if (image.ok()) {
        EXPECT_EQ(**image, *MakeImage(scope, tokens, kImage));
      }
    });
    return status;
  }

  int64_t Spilled(const Tokens& tokens) {
    return cache_->FindSpilled({"t", "m", ""}, tokens, static_cast<int64_t>(tokens.size()) - 1);
  }

  std::shared_ptr<MemorySpill> spill_ = std::make_shared<MemorySpill>();
};

TEST_F(PrefixSpillTest, EvictedStatesComeBack) {
  ASSERT_TRUE(Insert(Iota(50)));
  ASSERT_TRUE(Insert(Iota(50, 1000)));
  EXPECT_EQ(spill_->size(), 1u);
  const PrefixMatch match = Lookup(Iota(60));
  EXPECT_EQ(match.miss, PrefixMiss::kEvicted);
  EXPECT_EQ(Spilled(Iota(60)), 50);
  EXPECT_EQ(Spilled(Iota(50)), 0);  // the last token has to be computed
  EXPECT_TRUE(Fetch(Iota(50)).ok());
  EXPECT_EQ(Lookup(Iota(60)).tokens, 50);
  EXPECT_EQ(Spilled(Iota(60)), 0);  // it is here
  EXPECT_EQ(Spilled(Iota(51, 1000)), 50);
  EXPECT_EQ(cache_->TenantStats("t").spilled, 2);
  EXPECT_EQ(cache_->TenantStats("t").spill_hits, 1);
}

TEST_F(PrefixSpillTest, NotWhatSavesTooLittle) {
  ASSERT_TRUE(Insert(Iota(39)));
  ASSERT_TRUE(Insert(Iota(50, 1000)));
  EXPECT_EQ(spill_->size(), 0u);
  EXPECT_EQ(Spilled(Iota(60)), 0);
}

TEST_F(PrefixSpillTest, AReplicaFindsWhatAnotherSpilled) {
  ASSERT_TRUE(Insert(Iota(50)));
  ASSERT_TRUE(Insert(Iota(50, 1000)));
  const std::shared_ptr<PrefixCache> first = cache_;
  Start(SpillingOptions(spill_));
  EXPECT_TRUE(Fetch(Iota(50)).ok());
  EXPECT_EQ(Lookup(Iota(60)).tokens, 50);
  // Only under the same tenant, model and context, and only that very path.
  EXPECT_TRUE(absl::IsNotFound(Fetch(Iota(50), kImage, {"u", "m", ""})));
  EXPECT_TRUE(absl::IsNotFound(Fetch(Iota(50), kImage, {"t", "n", ""})));
  EXPECT_TRUE(absl::IsNotFound(Fetch(Iota(50), kImage, {"t", "m", "c"})));
  EXPECT_TRUE(absl::IsNotFound(Fetch(Iota(49))));
}

TEST_F(PrefixSpillTest, WhatTheSpillLostIsForgotten) {
  ASSERT_TRUE(Insert(Iota(50)));
  ASSERT_TRUE(Insert(Iota(50, 1000)));
  spill_->Lose();
  EXPECT_EQ(Spilled(Iota(60)), 50);
  EXPECT_TRUE(absl::IsNotFound(Fetch(Iota(50))));
  EXPECT_EQ(Spilled(Iota(60)), 0);
  EXPECT_EQ(cache_->TenantStats("t").spill_misses, 1);
}

TEST_F(PrefixSpillTest, AStateOfAnotherSizeIsRefusedAndErased) {
  ASSERT_TRUE(Insert(Iota(50)));
  ASSERT_TRUE(Insert(Iota(50, 1000)));
  spill_->Truncate(100);
  EXPECT_TRUE(absl::IsDataLoss(Fetch(Iota(50))));
  EXPECT_EQ(spill_->size(), 0u);
  EXPECT_EQ(Lookup(Iota(60)).tokens, 0);
}

TEST_F(PrefixSpillTest, AFetchOutlivesItsCaller) {
  ASSERT_TRUE(Insert(Iota(50)));
  ASSERT_TRUE(Insert(Iota(50, 1000)));
  spill_->Hold();
  bool called = false;
  cache_->Fetch({"t", "m", ""}, Iota(50), kImage,
                [&](absl::StatusOr<StateImage> image) { called = image.ok(); });
  EXPECT_EQ(spill_->waiting(), 1);
  Start({});
  spill_->Release();
  EXPECT_TRUE(called);
}

TEST_F(PrefixSpillTest, EraseReachesTheSpill) {
  ASSERT_TRUE(Insert(Iota(50)));
  ASSERT_TRUE(Insert(Iota(50, 1000)));
  cache_->Erase({"t", "m", ""}, Iota(60));
  EXPECT_EQ(spill_->size(), 0u);
}

TEST(PrefixCacheOptionsTest, AreValidated) {
  RealClock clock;
  const auto message = [&](auto change) {
    PrefixCacheOptions options;
    change(options);
    const absl::Status status = PrefixCache::Create(&clock, options).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(message([](auto& o) { o.max_bytes = 0; }), HasSubstr("max_bytes"));
  EXPECT_THAT(message([](auto& o) { o.max_tenant_bytes = -1; }), HasSubstr("max_tenant_bytes"));
  EXPECT_THAT(message([](auto& o) { o.ttl = absl::ZeroDuration(); }), HasSubstr("ttl"));
  EXPECT_THAT(message([](auto& o) { o.half_life = absl::ZeroDuration(); }), HasSubstr("half_life"));
  EXPECT_THAT(message([](auto& o) { o.path_share = 0; }), HasSubstr("path_share"));
  EXPECT_THAT(message([](auto& o) { o.path_share = std::nan(""); }), HasSubstr("path_share"));
  EXPECT_THAT(message([](auto& o) { o.guaranteed_tenant_bytes = -1; }), HasSubstr("guaranteed"));
}

}  // namespace
}  // namespace reprise::scheduler
