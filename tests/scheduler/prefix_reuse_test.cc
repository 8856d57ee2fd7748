// The scheduler with a prefix cache: what is kept where, what is reused, and what callers hear.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <memory>
#include <utility>

#include "scheduler/prefix_cache/testing/memory_spill.h"
#include "tests/scheduler/scheduler_fixture.h"

namespace reprise::scheduler {
namespace {

using ::testing::HasSubstr;
using Tokens = std::vector<int32_t>;

class PrefixReuseTest : public SchedulerFixture {
 protected:
  void SetUp() override { StartCached({}); }

  void StartCached(const PrefixCacheOptions& cache_options) {
    cache_ = *PrefixCache::Create(&clock_, cache_options);
    SchedulerOptions options = SmallOptions();
    options.prefix_cache = cache_;
    options.keep_policy.min_tokens = 10;
    options.keep_policy.long_prompt_tokens = 400;
    Start(options);
  }

  // Little memory, so that states are spilled.
  static PrefixCacheOptions Spilling(std::shared_ptr<MemorySpill> spill, int min_tokens) {
    PrefixCacheOptions options;
    options.max_bytes = 2000;
    options.path_share = 1;
    options.spill = std::move(spill);
    options.spill_min_tokens = min_tokens;
    return options;
  }

  // The prompt's answer, checked against the model's own.
  RequestResult Run(Request request) {
    Tokens all = before_;
    all.insert(all.end(), request.prompt.begin(), request.prompt.end());
    const int max_tokens = request.max_tokens;
    const Submitted submitted = Submit(std::move(request));
    RunUntilIdle();
    EXPECT_EQ(submitted.observer->finishes(), 1);
    const RequestResult result = submitted.observer->result();
    EXPECT_TRUE(result.status.ok()) << result.status;
    EXPECT_EQ(result.generated, model_.Continue(all, max_tokens));
    return result;
  }
  RequestResult Run(const Tokens& prompt, int max_tokens = 3) {
    return Run(MakeRequest(prompt, max_tokens));
  }
  // Its own tokens only: what it keeps for others is off.
  RequestResult RunUncached(const Tokens& prompt) {
    Request request = MakeRequest(prompt, 3);
    request.use_prefix_cache = false;
    return Run(std::move(request));
  }

  // Other prompts, until a state of this one is spilled; its length.
  int64_t PushOut(const Tokens& prompt) {
    for (int i = 0; i < 20; ++i) {
      clock_.Advance(absl::Minutes(7));
      Run(RandomTokens(20, ++others_), 1);
      const int64_t spilled =
          cache_->FindSpilled({"t", Model(), ""}, prompt, static_cast<int64_t>(prompt.size()));
      if (spilled > 0) return spilled;
    }
    return 0;
  }

  std::string Model() const {
    return model_.info().weights_fingerprint + "/" + model_.state_layout().Digest() + "/" +
           model_.state_layout().numerics_id();
  }

  static Tokens Joined(Tokens a, const Tokens& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  }

  std::shared_ptr<PrefixCache> cache_;
  uint32_t others_ = 1000;
  Tokens before_;  // what the state consumed that requests start with
};

TEST_F(PrefixReuseTest, ALongerPromptStartsAtTheEndOfAnEarlierOne) {
  const Tokens prompt = RandomTokens(50, 1);
  const RequestResult first = Run(prompt);
  EXPECT_EQ(first.reuse.cached_tokens, 0);
  EXPECT_EQ(first.reuse.miss, PrefixMiss::kNoEntry);
  EXPECT_EQ(first.computed_tokens, 52);
  const RequestResult second = Run(Joined(prompt, RandomTokens(20, 2)));
  EXPECT_EQ(second.reuse.cached_tokens, 50);
  EXPECT_EQ(second.reuse.miss, PrefixMiss::kNone);
  EXPECT_EQ(second.computed_tokens, 22);
  EXPECT_GE(scheduler_->stats().cached_tokens, 50);
}

TEST_F(PrefixReuseTest, TheNextTurnStartsAtTheEndOfTheAnswer) {
  const Tokens prompt = RandomTokens(50, 3);
  const RequestResult first = Run(prompt, 20);
  const RequestResult second =
      Run(Joined(Joined(prompt, first.generated), RandomTokens(20, 4)), 20);
  // The answer's last token was never fed.
  EXPECT_EQ(second.reuse.cached_tokens, 50 + 19);
  EXPECT_EQ(second.computed_tokens, 1 + 20 + 19);
}

TEST_F(PrefixReuseTest, ThePlaceWherePromptsPartIsKeptTheSecondTime) {
  const Tokens common = RandomTokens(37, 5);
  const auto prompt = [&](int i) {
    Tokens tokens = Joined(common, RandomTokens(20, 10 + i));
    tokens[37] = i;
    return tokens;
  };
  EXPECT_EQ(Run(prompt(0)).reuse.cached_tokens, 0);
  EXPECT_EQ(Run(prompt(1)).reuse.cached_tokens, 0);
  EXPECT_EQ(Run(prompt(2)).reuse.cached_tokens, 37);
  EXPECT_EQ(Run(prompt(3)).reuse.cached_tokens, 37);
}

TEST_F(PrefixReuseTest, TheSamePromptIsReusedUpToItsLastToken) {
  const Tokens prompt = RandomTokens(50, 6);
  Run(prompt);
  Run(prompt);
  const RequestResult third = Run(prompt);
  EXPECT_EQ(third.reuse.cached_tokens, 49);
  EXPECT_EQ(third.computed_tokens, 3);
  // Feed-only too, of which the last token stays pending.
  const RequestResult fed = Run(prompt, 0);
  EXPECT_EQ(fed.state->position, 49);
  Request uncached = MakeRequest(prompt, 0);
  uncached.use_prefix_cache = false;
  EXPECT_EQ(fed.state->image, Run(std::move(uncached)).state->image);
}

TEST_F(PrefixReuseTest, MarksAreKept) {
  Request request = MakeRequest(RandomTokens(50, 7), 3);
  request.cache_marks = {3, 30};
  Run(request);
  Tokens other = RandomTokens(50, 7);
  other[31] ^= 1;
  EXPECT_EQ(Run(other).reuse.cached_tokens, 30);
  other[4] ^= 1;
  EXPECT_EQ(Run(other).reuse.cached_tokens, 3);
}

TEST_F(PrefixReuseTest, ALongPromptKeepsAFewStatesAndNotOnePerChunk) {
  const Tokens prompt = RandomTokens(3000, 8);
  Run(prompt);
  EXPECT_LE(scheduler_->stats().kept_prefixes, kMostLongKeeps + 1);
  EXPECT_GE(scheduler_->stats().kept_prefixes, 3);
  Tokens other = prompt;
  other[2900] ^= 1;
  EXPECT_EQ(Run(other).reuse.cached_tokens, 2048);
}

TEST_F(PrefixReuseTest, WhatSavesLittleIsNotKept) {
  Run(RandomTokens(7, 9));
  EXPECT_EQ(scheduler_->stats().kept_prefixes, 0);
}

TEST_F(PrefixReuseTest, TheCallerMayDoWithout) {
  const Tokens prompt = RandomTokens(50, 10);
  EXPECT_EQ(RunUncached(prompt).reuse.miss, PrefixMiss::kDisabled);
  EXPECT_EQ(Run(Joined(prompt, {1, 2})).reuse.miss, PrefixMiss::kNoEntry);
  EXPECT_EQ(RunUncached(Joined(prompt, {1, 2, 3})).reuse.cached_tokens, 0);
}

TEST_F(PrefixReuseTest, ScoresOfThePromptWantEveryRow) {
  const Tokens prompt = RandomTokens(50, 11);
  Run(prompt);
  Request request = MakeRequest(Joined(prompt, {1, 2}), 3);
  request.prompt_logprobs = true;
  const RequestResult result = Run(std::move(request));
  EXPECT_EQ(result.reuse.miss, PrefixMiss::kEveryRow);
  EXPECT_EQ(result.prompt_logprobs.size(), 51u);
}

TEST_F(PrefixReuseTest, TenantsDoNotShare) {
  const Tokens prompt = RandomTokens(50, 12);
  Run(prompt);
  Request request = MakeRequest(Joined(prompt, {1}), 3);
  request.tenant = "other";
  const RequestResult result = Run(std::move(request));
  EXPECT_EQ(result.reuse.cached_tokens, 0);
  EXPECT_EQ(result.reuse.miss, PrefixMiss::kNoEntry);
}

TEST_F(PrefixReuseTest, WhatFollowsANamedStateIsCachedBehindIt) {
  before_ = RandomTokens(30, 13);
  const Submitted start = Submit(MakeRequest(before_, 0));
  RunUntilIdle();
  const SequenceState state = *start.observer->result().state;
  const auto run = [&](const char* name, const Tokens& prompt) {
    Request request = MakeRequest(prompt, 3);
    request.state = state;
    request.state->name = name;
    return Run(std::move(request)).reuse;
  };
  const Tokens prompt = RandomTokens(25, 14);
  EXPECT_EQ(run("a", prompt).cached_tokens, 0);
  // With the pending token.
  EXPECT_EQ(run("a", Joined(prompt, {1, 2})).cached_tokens, 26);
  EXPECT_EQ(run("b", Joined(prompt, {1, 2})).miss, PrefixMiss::kNoEntry);
  EXPECT_EQ(run("", Joined(prompt, {1, 2})).miss, PrefixMiss::kDisabled);
}

TEST_F(PrefixReuseTest, ReasonsOfTheCacheReachTheCaller) {
  PrefixCacheOptions options;
  options.max_bytes = 3000;  // some states and paths
  options.path_share = 0.5;
  options.ttl = absl::Minutes(10);
  StartCached(options);
  const Tokens prompt = RandomTokens(50, 15);
  Run(prompt);
  clock_.Advance(absl::Minutes(11));
  EXPECT_EQ(Run(Joined(prompt, {1})).reuse.miss, PrefixMiss::kExpired);
  std::vector<PrefixMiss> misses;
  for (int i = 0; i < 30; ++i) {
    clock_.Advance(absl::Seconds(1));
    Run(RandomTokens(30, 100 + i % 10));
    misses.push_back(Run(Joined(RandomTokens(30, 100 + i % 10), {i})).reuse.miss);
    EXPECT_TRUE(cache_->CheckIntegrity().ok());
  }
  EXPECT_GT(cache_->TotalStats().evictions, 10);
  EXPECT_THAT(misses, ::testing::Contains(PrefixMiss::kNone));
}

TEST_F(PrefixReuseTest, ASpilledStateIsFetchedWhileTheRequestWaits) {
  const auto spill = std::make_shared<MemorySpill>();
  StartCached(Spilling(spill, /*min_tokens=*/10));
  const Tokens prompt = RandomTokens(50, 16);
  Run(prompt, 1);
  ASSERT_EQ(PushOut(prompt), 50);
  spill->Hold();
  const Submitted waiting = Submit(MakeRequest(Joined(prompt, {1}), 3));
  const Submitted beside = Submit(MakeRequest(RandomTokens(5, 17), 3));
  for (int i = 0; i < 10; ++i) scheduler_->Step();
  EXPECT_EQ(beside.observer->finishes(), 1);
  EXPECT_EQ(waiting.observer->finishes(), 0);
  clock_.Advance(absl::Seconds(2));
  spill->Release();
  RunUntilIdle();
  const RequestResult result = waiting.observer->result();
  EXPECT_EQ(result.generated, model_.Continue(Joined(prompt, {1}), 3));
  EXPECT_EQ(result.reuse.cached_tokens, 50);
  EXPECT_EQ(result.timeline.load, absl::Seconds(2));
  // One that the spill lost is computed.
  ASSERT_EQ(PushOut(prompt), 50);
  spill->Lose();
  EXPECT_EQ(Run(Joined(prompt, {2})).computed_tokens, 51 + 2);
}

TEST_F(PrefixReuseTest, AReplicaFetchesAtMarks) {
  const auto spill = std::make_shared<MemorySpill>();
  const PrefixCacheOptions options = Spilling(spill, /*min_tokens=*/1);
  StartCached(options);
  Request request = MakeRequest(RandomTokens(50, 18), 1);
  request.cache_marks = {40};
  const Request again = request;
  Run(std::move(request));
  ASSERT_GE(PushOut(again.prompt), 40);
  StartCached(options);  // another replica
  EXPECT_EQ(Run(again).reuse.cached_tokens, 40);
  EXPECT_EQ(cache_->TenantStats("t").spill_hits, 1);
}

// Marks are places of the prompt, whatever the state before it has consumed.
TEST_F(PrefixReuseTest, MarksAfterAStateWithAPendingToken) {
  const auto spill = std::make_shared<MemorySpill>();
  const PrefixCacheOptions options = Spilling(spill, /*min_tokens=*/1);
  StartCached(options);
  before_ = RandomTokens(30, 13);
  const Submitted start = Submit(MakeRequest(before_, 0));
  RunUntilIdle();
  SequenceState state = *start.observer->result().state;
  state.name = "a";
  Request request = MakeRequest(RandomTokens(25, 14), 1);
  request.state = state;
  request.cache_marks = {12, 24};
  const Request again = request;
  Run(std::move(request));
  Request other = again;
  other.prompt[12] ^= 1;
  other.cache_marks.clear();
  EXPECT_EQ(Run(std::move(other)).reuse.cached_tokens, 1 + 12);
  // The longest of them that leaves a row is asked of the spill, by another replica too.
  const PrefixScope scope{"t", Model(), "a"};
  const Tokens feed = Joined({*state.pending}, again.prompt);
  before_.clear();
  for (int i = 0; i < 20 && cache_->FindSpilled(scope, feed, 25) < 25; ++i) {
    clock_.Advance(absl::Minutes(7));
    Run(RandomTokens(20, 2000 + i), 1);
  }
  ASSERT_EQ(cache_->FindSpilled(scope, feed, 25), 25);
  StartCached(options);
  before_ = RandomTokens(30, 13);
  Request first = again;
  EXPECT_EQ(Run(std::move(first)).reuse.cached_tokens, 1 + 24);
  EXPECT_EQ(cache_->TenantStats("t").spill_hits, 1);
  // And not again while it is here.
  Request second = again;
  second.prompt.push_back(1);
  EXPECT_GE(Run(std::move(second)).reuse.cached_tokens, 1 + 24);
  EXPECT_EQ(cache_->TenantStats("t").spill_hits + cache_->TenantStats("t").spill_misses, 1);
}

TEST_F(PrefixReuseTest, WhenTheFirstIsCancelledItsHeirKeepsTheMarks) {
  Request request = MakeRequest(RandomTokens(200, 20), 3);
  request.cache_marks = {150};
  const auto heir = std::make_shared<RecordingObserver>();
  request.forks.push_back({request.sampling, heir, true});
  const Tokens prompt = request.prompt;
  const Submitted first = Submit(std::move(request));
  scheduler_->Step();
  scheduler_->Cancel(first.id);
  RunUntilIdle();
  EXPECT_EQ(heir->tokens(), model_.Continue(prompt, 3));
  Tokens other = prompt;
  other[150] ^= 1;
  EXPECT_EQ(Run(other).reuse.cached_tokens, 150);
}

TEST_F(PrefixReuseTest, ACancelWhileFetchingEndsTheRequestOnce) {
  const auto spill = std::make_shared<MemorySpill>();
  PrefixCacheOptions options;
  options.spill = spill;
  StartCached(options);
  spill->Hold();
  Request request = MakeRequest(RandomTokens(50, 19), 3);
  request.cache_marks = {40};
  const Submitted submitted = Submit(std::move(request));
  scheduler_->Step();
  EXPECT_EQ(spill->waiting(), 1);
  scheduler_->Cancel(submitted.id);
  scheduler_->Step();
  EXPECT_EQ(submitted.observer->finishes(), 1);
  spill->Release();
  scheduler_->Step();
  EXPECT_EQ(submitted.observer->finishes(), 1);
  EXPECT_TRUE(scheduler_->Idle());
}

TEST_F(PrefixReuseTest, NothingIsKeptOfASequenceWhoseLogitsAreNotFinite) {
  model_.nan_token = 63;
  Tokens prompt = RandomTokens(50, 20);
  for (int32_t& token : prompt) token %= 60;
  prompt[49] = 63;
  Request request = MakeRequest(prompt, 3);
  request.cache_marks = {20, 49};
  const Submitted poisoned = Submit(std::move(request));
  RunUntilIdle();
  EXPECT_EQ(poisoned.observer->result().status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(cache_->TotalStats().entries, 0);
}

TEST_F(PrefixReuseTest, ACancelledPromptIsGoneOnFrom) {
  const Tokens prompt = RandomTokens(200, 21);
  const Submitted cancelled = Submit(MakeRequest(prompt, 3));
  for (int i = 0; i < 3; ++i) scheduler_->Step();
  scheduler_->Cancel(cancelled.id);
  scheduler_->Step();
  const int64_t computed = cancelled.observer->result().computed_tokens;
  ASSERT_GT(computed, 50);
  EXPECT_EQ(Run(prompt).reuse.cached_tokens, computed);
}

TEST_F(PrefixReuseTest, HostileMarksAreRefused) {
  const auto message = [&](std::vector<int64_t> marks) {
    Request request = MakeRequest({1, 2, 3}, 1);
    request.observer = std::make_shared<RecordingObserver>();
    request.cache_marks = std::move(marks);
    return std::string(scheduler_->Submit(std::move(request)).status().message());
  };
  EXPECT_THAT(message({0}), HasSubstr("cache_marks[0]"));
  EXPECT_THAT(message({1, 4}), HasSubstr("cache_marks[1]"));
  EXPECT_THAT(message({std::numeric_limits<int64_t>::min()}), HasSubstr("cache_marks[0]"));
  EXPECT_THAT(message(std::vector<int64_t>(33, 1)), HasSubstr("at most 32"));
}

}  // namespace
}  // namespace reprise::scheduler
