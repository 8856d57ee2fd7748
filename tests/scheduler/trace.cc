#include "tests/scheduler/trace.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/device_health.h"
#include "scheduler/prefix_cache/testing/memory_spill.h"

namespace reprise::scheduler {
namespace {

constexpr absl::Duration kLongestStep = absl::Milliseconds(30);
constexpr int kMostSteps = 200000;

bool SameBits(float a, float b) { return std::memcmp(&a, &b, sizeof(float)) == 0; }

// Empty when equal in every bit.
std::string Difference(const std::vector<kernels::SampledToken>& a,
                       const std::vector<kernels::SampledToken>& b) {
  if (a.size() != b.size()) return absl::StrCat("sizes ", a.size(), " and ", b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    bool same = a[i].id == b[i].id && SameBits(a[i].logprob, b[i].logprob) &&
                a[i].top.size() == b[i].top.size();
    for (size_t j = 0; same && j < a[i].top.size(); ++j) {
      same = a[i].top[j].id == b[i].top[j].id && SameBits(a[i].top[j].logprob, b[i].top[j].logprob);
    }
    if (!same) return absl::StrCat("token ", i, " of ", a.size());
  }
  return "";
}

std::string Difference(const SequenceState& a, const SequenceState& b) {
  if (a.position != b.position) return absl::StrCat("positions ", a.position, " and ", b.position);
  if (a.pending != b.pending) return "pending tokens";
  return a.image == b.image ? "" : "images";
}

template <typename T>
std::vector<T> From(const std::vector<T>& values, size_t begin) {
  return {values.begin() + static_cast<std::ptrdiff_t>(begin), values.end()};
}

template <typename T>
std::vector<T> Until(const std::vector<T>& values, size_t end) {
  return {values.begin(), values.begin() + static_cast<std::ptrdiff_t>(end)};
}

}  // namespace

RequestResult RunAlone(models::HybridModel* model, const kernels::Context& context, Request request,
                       std::vector<kernels::SampledToken>* sampled) {
  const FakeClock clock;
  SchedulerOptions options;
  options.num_slots = 1;
  options.step_tokens = options.prefill_chunk_tokens = options.step_logit_rows = model->max_rows();
  auto scheduler = Scheduler::Create(model, context, &clock, options);
  EXPECT_TRUE(scheduler.ok()) << scheduler.status();
  const auto observer = std::make_shared<RecordingObserver>();
  request.observer = observer;
  request.export_state = true;
  request.deadline = absl::InfiniteFuture();
  request.checkpoint_every_tokens = 0;
  request.state_source = nullptr;
  request.cache_marks.clear();
  const absl::Status submitted = (*scheduler)->Submit(std::move(request)).status();
  EXPECT_TRUE(submitted.ok()) << submitted;
  while (!(*scheduler)->Idle()) (*scheduler)->Step();
  if (sampled != nullptr) *sampled = observer->sampled();
  return observer->result();
}

Trace::Trace(models::HybridModel* model, const kernels::Context& context, uint32_t seed,
             const TraceSize& size)
    : model_(model), context_(context), alone_(context), seed_(seed), size_(size), random_(seed) {
  alone_.health = nullptr;
  options_ = RandomOptions();
  for (int i = 0; i < 2; ++i) beginnings_.push_back(RandomTokens(Random(1, size.longest_prompt)));
  for (int i = 0; i < size.requests; ++i) requests_.push_back(RandomRequest(i));
  if (Chance(20)) drain_step_ = Random(5, 60);
}

std::vector<int32_t> Trace::RandomTokens(int count) {
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) token = Random(0, model_.info().vocab_size - 1);
  return tokens;
}

std::vector<int32_t> Trace::RandomPrompt() {
  std::vector<int32_t> prompt;
  if (Chance(75)) {
    prompt = beginnings_[Random(0, static_cast<int>(beginnings_.size()) - 1)];
    if (Chance(25)) prompt.resize(Random(1, static_cast<int>(prompt.size())));
  }
  const std::vector<int32_t> end =
      RandomTokens(Chance(70) ? Random(1, 20) : Random(1, size_.longest_prompt));
  if (prompt.empty() || Chance(80)) prompt.insert(prompt.end(), end.begin(), end.end());
  if (Chance(15)) beginnings_.push_back(prompt);
  return prompt;
}

kernels::SamplingParams Trace::RandomSampling() {
  kernels::SamplingParams sampling;
  if (Chance(50)) {
    sampling.temperature = 1.0f;
    sampling.top_p = 0.95f;
    sampling.seed = random_();
  }
  if (Chance(25)) {
    sampling.repetition_penalty = 1.3f;
    sampling.presence_penalty = 0.5f;
    sampling.frequency_penalty = 0.2f;
  }
  return sampling;
}

PrefixCacheStats Trace::cache_stats() const {
  return options_.prefix_cache == nullptr ? PrefixCacheStats()
                                          : options_.prefix_cache->TotalStats();
}

SchedulerOptions Trace::RandomOptions() {
  SchedulerOptions options;
  options.num_slots = Random(1, 6);
  options.step_tokens = Random(1, std::min(40, model_.max_rows()));
  options.prefill_chunk_tokens = Random(1, options.step_tokens);
  options.step_logit_rows = Random(1, std::min(40, model_.max_rows()));
  options.time_slice = absl::Milliseconds(std::vector<int>{0, 60, 500}[Random(0, 2)]);
  options.max_wait = absl::Milliseconds(std::vector<int>{0, 300, 3000}[Random(0, 2)]);
  options.park_paused_after = absl::Milliseconds(std::vector<int>{0, 100}[Random(0, 1)]);
  const int64_t image = static_cast<int64_t>(model_.state_layout().bytes());
  const int room = Random(0, 3);
  ample_parking_ = room > 1;
  options.max_parked_bytes = ample_parking_ ? 1000 * image : room * 2 * image;
  if (Chance(75)) {
    PrefixCacheOptions cache;
    // From next to nothing to more than all of them need.
    cache.max_bytes = Chance(60) ? Random(2, 12) * (image + 1500) : 1000 * image;
    cache.path_share = 0.5;
    cache.ttl = absl::Milliseconds(std::vector<int>{1000, 100'000}[Random(0, 1)]);
    cache.half_life = absl::Milliseconds(Random(10, 1000));
    if (Chance(40)) cache.spill = std::make_shared<MemorySpill>();
    cache.spill_min_tokens = 1;
    options.prefix_cache = *PrefixCache::Create(&clock_, cache);
    options.keep_policy.min_tokens = Random(1, 20);
    options.keep_policy.long_prompt_tokens = Random(8, 64);
  }
  options.delivery = Chance(50) ? Delivery::kBesideNextStep : Delivery::kAtOnce;
  options.tenant_weight = [](const std::string& tenant) { return tenant == "t0" ? 3.0 : 1.0; };
  return options;
}

Trace::Planned Trace::RandomRequest(int index) {
  Planned planned;
  planned.begin_step = Chance(30) ? 0 : Random(0, 150);
  Request& request = planned.request;
  request.tenant = absl::StrCat("t", Chance(50) ? 0 : Random(0, 3));
  request.priority = static_cast<Priority>(Random(0, kNumPriorities - 1));
  request.prompt = RandomPrompt();
  request.max_tokens = Chance(15) ? 0 : Random(1, size_.longest_answer);
  request.export_state = Chance(80);
  request.keep_partial = Chance(50);
  request.logprobs = Chance(50);
  request.top_logprobs = Chance(30) ? 5 : 0;
  request.prompt_logprobs = Chance(25);
  request.use_prefix_cache = Chance(90);
  for (int marks = Chance(30) ? Random(1, 3) : 0; marks > 0; --marks) {
    request.cache_marks.push_back(Random(1, static_cast<int>(request.prompt.size())));
  }
  request.sampling = RandomSampling();
  for (int forks = request.max_tokens > 0 && Chance(15) ? Random(1, 5) : 0; forks > 0; --forks) {
    planned.forks.push_back({RandomSampling(), Chance(20) ? Random(0, request.max_tokens) : -1});
  }
  if (Chance(25)) request.stop_tokens = RandomTokens(3);
  if (Chance(40)) request.checkpoint_every_tokens = Random(1, 40);
  if (Chance(15)) planned.cancel_at = Random(0, request.max_tokens);
  planned.slow_reader = Chance(20);
  if (index > 0 && Chance(30)) {
    planned.follows = Random(0, index - 1);
    if (Chance(60)) planned.load_steps = Random(0, 20);
    if (Chance(40)) {
      request.prompt.clear();
      request.cache_marks.clear();
    }
  }
  if (Chance(8)) request.deadline = clock_.Now() + absl::Milliseconds(Random(1, 3000));
  return planned;
}

void Trace::Submit(Planned& planned, int step) {
  Request request = planned.request;
  if (planned.follows >= 0) {
    // Of one that left no state, or whose tokens stop within its prompt, there is nothing to
    // follow.
    const RequestResult before = requests_[planned.follows].observer->result();
    if (before.status.ok() && before.state.has_value()) {
      request.state = before.state;
      // Requests that follow the same one begin with the same bits.
      if (Chance(70)) request.state->name = absl::StrCat("after ", planned.follows);
    }
  }
  if (!request.state.has_value() && request.prompt.empty()) request.prompt = RandomTokens(3);
  planned.submitted = request;
  planned.submit_step = step;
  if (request.state.has_value() && planned.load_steps >= 0) {
    planned.future = request.state_source = std::make_shared<StateFuture>();
    request.state.reset();
  }
  request.observer = planned.observer;
  for (const PlannedFork& fork : planned.forks) {
    request.forks.push_back({fork.sampling, fork.observer});
  }
  const absl::StatusOr<RequestId> id = scheduler_->Submit(std::move(request));
  if (id.ok()) {
    planned.id = *id;
    return;
  }
  planned.submitted.reset();
  planned.id = ~RequestId{0};  // not to be tried again
  const SchedulerError error = GetSchedulerError(id.status());
  const bool device_failed = context_.health != nullptr && context_.health->failed();
  EXPECT_TRUE(device_failed ? error == SchedulerError::kDeviceFailed
                            : error == SchedulerError::kDraining ||
                                  error == SchedulerError::kDeadlineUnreachable)
      << id.status();
}

void Trace::ActAsClients(int step) {
  if (step == drain_step_) scheduler_->Drain(clock_.Now() + absl::Milliseconds(Random(0, 400)));
  for (Planned& planned : requests_) {
    const bool waits_for_other = planned.follows >= 0 &&
                                 requests_[planned.follows].observer->finishes() == 0 &&
                                 requests_[planned.follows].id != ~RequestId{0};
    if (planned.id == 0) {
      if (step >= planned.begin_step && !waits_for_other) Submit(planned, step);
      continue;
    }
    if (!planned.submitted.has_value()) continue;
    if (planned.future != nullptr && step >= planned.submit_step + planned.load_steps) {
      planned.future->Set(*planned.submitted->state);
    }
    if (planned.slow_reader) planned.observer->writable = Chance(30);
    const int generated = static_cast<int>(planned.observer->tokens().size());
    if (planned.cancel_at >= 0 && generated >= planned.cancel_at && Chance(30)) {
      scheduler_->Cancel(planned.id);
    }
    for (size_t i = 0; i < planned.forks.size(); ++i) {
      const PlannedFork& fork = planned.forks[i];
      if (planned.slow_reader) fork.observer->writable = Chance(30);
      const int tokens = static_cast<int>(fork.observer->tokens().size());
      if (fork.cancel_at >= 0 && tokens >= fork.cancel_at && Chance(30)) {
        scheduler_->Cancel(planned.id + 1 + i);
      }
    }
  }
}

void Trace::CheckStep() {
  const absl::Status integrity = scheduler_->CheckIntegrity();
  ASSERT_TRUE(integrity.ok()) << "seed " << seed_ << ": " << integrity;
  if (options_.prefix_cache != nullptr) {
    const absl::Status cache = options_.prefix_cache->CheckIntegrity();
    ASSERT_TRUE(cache.ok()) << "seed " << seed_ << ": " << cache;
  }
  ASSERT_LE(model_.rows, options_.step_tokens) << "seed " << seed_;
  ASSERT_LE(model_.logit_rows, options_.step_logit_rows) << "seed " << seed_;
  if (context_.health != nullptr && context_.health->failed()) {
    if (states_at_failure_ < 0) states_at_failure_ = StatesOutside();
    ASSERT_EQ(StatesOutside(), states_at_failure_) << "seed " << seed_;
  }
  const SchedulerStats stats = scheduler_->stats();
  ASSERT_LE(stats.parked_bytes, options_.max_parked_bytes) << "seed " << seed_;
  most_live_ = std::max(most_live_, stats.running + stats.waiting + stats.parked);
}

int64_t Trace::StatesOutside() const {
  int64_t states = scheduler_->stats().kept_prefixes;
  const auto count = [&](const RecordingObserver& observer) {
    states += static_cast<int64_t>(observer.checkpoints().size());
    states += observer.finishes() > 0 && observer.result().state.has_value();
  };
  for (const Planned& planned : requests_) {
    count(*planned.observer);
    for (const PlannedFork& fork : planned.forks) count(*fork.observer);
  }
  return states;
}

void Trace::Run() {
  auto scheduler = Scheduler::Create(&model_, context_, &clock_, options_);
  ASSERT_TRUE(scheduler.ok()) << scheduler.status();
  scheduler_ = *std::move(scheduler);
  const auto all_submitted = [&] {
    return std::all_of(requests_.begin(), requests_.end(),
                       [](const Planned& planned) { return planned.id != 0; });
  };
  for (int step = 0; !all_submitted() || !scheduler_->Idle(); ++step) {
    ASSERT_LT(step, kMostSteps) << "seed " << seed_ << ": does not come to an end";
    ActAsClients(step);
    scheduler_->Step();
    CheckStep();
    if (::testing::Test::HasFatalFailure()) return;
    clock_.Advance(kLongestStep * Random(0, 3) / 3);
  }
  scheduler_->Step();
  stats_ = scheduler_->stats();
  EXPECT_EQ(stats_.free_slots, options_.num_slots) << "seed " << seed_;
  EXPECT_EQ(stats_.parked_bytes, 0) << "seed " << seed_;
}

void Trace::CheckOutputs() {
  for (size_t i = 0; i < requests_.size(); ++i) {
    SCOPED_TRACE(absl::StrCat("seed ", seed_, ", request ", i));
    EXPECT_EQ(requests_[i].observer->finishes(), requests_[i].submitted.has_value() ? 1 : 0);
    if (requests_[i].submitted.has_value()) CheckOne(requests_[i]);
    for (const PlannedFork& fork : requests_[i].forks) {
      EXPECT_EQ(fork.observer->finishes(), requests_[i].submitted.has_value() ? 1 : 0);
      if (!requests_[i].submitted.has_value()) continue;
      Planned alone = requests_[i];
      alone.submitted->sampling = fork.sampling;
      alone.observer = fork.observer;
      CheckOne(alone);
    }
    if (::testing::Test::HasFailure()) return;
  }
}

void Trace::CheckOne(const Planned& planned) {
  const RequestResult result = planned.observer->result();
  if (ample_parking_) {
    const int steps = 9 + options_.num_slots;
    const absl::Duration wait =
        options_.max_wait +
        (most_live_ + 1) * (4 * options_.time_slice / options_.num_slots + steps * kLongestStep);
    EXPECT_LE(result.timeline.queue - result.timeline.load, wait);
    if (!planned.slow_reader) {
      EXPECT_LE(result.timeline.token_gap_max, wait + (steps + 1) * kLongestStep);
    }
  }
  std::vector<kernels::SampledToken> alone_sampled;
  if (GetSchedulerError(result.status) == SchedulerError::kDeviceFailed) {
    ++failed_with_device_;
    EXPECT_TRUE(context_.health != nullptr && context_.health->failed());
    EXPECT_FALSE(result.state.has_value());
  } else {
    EXPECT_TRUE(result.status.ok() || absl::IsCancelled(result.status) ||
                absl::IsDeadlineExceeded(result.status) ||
                GetSchedulerError(result.status) == SchedulerError::kDraining)
        << result.status;
  }
  const RequestResult alone = RunAlone(&model_, alone_, *planned.submitted, &alone_sampled);
  ASSERT_TRUE(alone.status.ok()) << alone.status;
  const std::vector<kernels::SampledToken> sampled = planned.observer->sampled();
  ASSERT_LE(sampled.size(), alone_sampled.size());
  EXPECT_EQ(Difference(sampled, Until(alone_sampled, sampled.size())), "");
  EXPECT_EQ(result.generated, Until(alone.generated, sampled.size()));
  const bool whole = result.status.ok() && result.reason != FinishReason::kDrained;
  if (whole) {
    EXPECT_EQ(result.reason, alone.reason);
    EXPECT_EQ(sampled.size(), alone_sampled.size());
    EXPECT_EQ(Difference(result.prompt_logprobs, alone.prompt_logprobs), "");
    EXPECT_EQ(result.computed_tokens + result.reuse.cached_tokens + result.reuse.shared_tokens,
              alone.computed_tokens)
        << "something was computed twice";
    ASSERT_EQ(result.state.has_value(), planned.request.export_state);
    if (result.state.has_value()) {
      EXPECT_EQ(Difference(*result.state, *alone.state), "");
    }
  } else if (result.state.has_value()) {
    CheckGoesOn(planned, *result.state, result.prompt_tokens_in_state, sampled.size(), alone);
  }
  const auto checkpoints = planned.observer->checkpoints();
  for (size_t i = 0; i < checkpoints.size(); i += 1 + checkpoints.size() / 2) {
    CheckGoesOn(planned, checkpoints[i].state, checkpoints[i].prompt_tokens,
                checkpoints[i].tokens_before, alone);
  }
}

void Trace::CheckGoesOn(const Planned& planned, const SequenceState& state, int64_t prompt_tokens,
                        size_t answer_tokens, const RequestResult& alone) {
  const Request& whole = *planned.submitted;
  Request next = whole;
  next.state = state;
  next.prompt = From(whole.prompt, prompt_tokens);
  next.earlier_prompt = Until(whole.prompt, prompt_tokens);
  next.earlier_answer = Until(alone.generated, answer_tokens);
  next.max_tokens -= static_cast<int>(answer_tokens);
  next.prompt_logprobs = false;
  const RequestResult rest = RunAlone(&model_, alone_, std::move(next));
  ASSERT_TRUE(rest.status.ok()) << rest.status;
  EXPECT_EQ(rest.generated, From(alone.generated, answer_tokens));
  EXPECT_EQ(Difference(*rest.state, *alone.state), "");
}

}  // namespace reprise::scheduler
