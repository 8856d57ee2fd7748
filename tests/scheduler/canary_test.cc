// A marker in one tenant's requests must not move a bit of another's logits, whatever happens to
// the first one's requests: abort, preemption, restore, failure, reuse of their slots.
#include <gtest/gtest.h>

#include <random>

#include "absl/strings/str_cat.h"
#include "tests/models/testing/model_runner.h"
#include "tests/scheduler/scheduler_fixture.h"
#include "tests/scheduler/trace.h"

namespace reprise::scheduler {
namespace {

using models::testing::ModelRunner;
using models::testing::SmallConfig;

// What the watched tenant hears, as bits.
void Append(const std::vector<kernels::SampledToken>& tokens, std::string* bits) {
  for (const kernels::SampledToken& token : tokens) {
    bits->append(reinterpret_cast<const char*>(&token.id), sizeof(token.id));
    bits->append(reinterpret_cast<const char*>(&token.logprob), sizeof(token.logprob));
    for (const kernels::TokenLogprob& top : token.top) {
      bits->append(reinterpret_cast<const char*>(&top.logprob), sizeof(top.logprob));
    }
  }
}

class CanaryTest : public ::testing::Test {
 protected:
  // The marked tenant's traffic: everything but the marker follows from the seed.
  struct Marked {
    Request request;
    std::shared_ptr<RecordingObserver> observer = std::make_shared<RecordingObserver>();
    int cancel_step = -1;
    bool submitted = false;
    RequestId id = 0;
  };

  Request Watched(std::mt19937& random) {
    Request request;
    request.tenant = "watched";
    request.prompt.resize(1 + random() % 40);
    for (int32_t& token : request.prompt) token = static_cast<int32_t>(random() % runner_.vocab());
    request.max_tokens = 1 + static_cast<int>(random() % 25);
    request.logprobs = request.prompt_logprobs = true;
    request.top_logprobs = 20;
    request.sampling.temperature = random() % 2 == 0 ? 0.0f : 1.0f;
    request.sampling.seed = random();
    return request;
  }

  Marked MarkedRequest(std::mt19937& random, int32_t marker, bool poison) {
    Marked marked;
    Request& request = marked.request;
    request.tenant = "marked";
    request.priority = static_cast<Priority>(random() % kNumPriorities);
    request.prompt.assign(1 + random() % 60, marker);
    request.max_tokens = 1 + static_cast<int>(random() % 30);
    request.export_state = true;
    request.checkpoint_every_tokens = static_cast<int64_t>(random() % 20);
    if (random() % 3 == 0) marked.cancel_step = static_cast<int>(random() % 60);
    const bool has_state = random() % 3 == 0;
    if (has_state) {
      SequenceState state;
      state.position = 70;
      state.pending = marker;
      // All ones are NaNs: nothing may be left of them in the slot.
      state.image.assign(runner_.model().state_layout().bytes(), poison ? 0xFF : 0);
      request.state = std::move(state);
    }
    return marked;
  }

  // One run; the bits that each watched request gave.
  std::vector<std::string> Run(uint32_t seed, int32_t marker, bool poison,
                               std::vector<Request>* watched_requests) {
    std::mt19937 random(seed);
    FakeClock clock;
    SchedulerOptions options;
    options.num_slots = 1 + static_cast<int>(random() % 3);
    options.step_tokens = options.prefill_chunk_tokens = options.step_logit_rows = 20;
    options.time_slice = absl::Milliseconds(random() % 2 == 0 ? 0 : 50);
    auto scheduler = Scheduler::Create(&runner_.model(), OneThread(), &clock, options);
    EXPECT_TRUE(scheduler.ok()) << scheduler.status();
    std::vector<std::shared_ptr<RecordingObserver>> watched;
    std::vector<Marked> marked;
    for (int i = 0; i < 12; ++i) marked.push_back(MarkedRequest(random, marker, poison));
    for (int i = 0; i < 6; ++i) watched_requests->push_back(Watched(random));
    for (int step = 0; step < 100000; ++step) {
      if (step % 3 == 0 && step / 3 < static_cast<int>(marked.size())) {
        Marked& next = marked[step / 3];
        Request request = next.request;
        request.observer = next.observer;
        next.id = *(*scheduler)->Submit(std::move(request));
        next.submitted = true;
      }
      if (step % 5 == 0 && watched.size() < watched_requests->size()) {
        Request request = (*watched_requests)[watched.size()];
        watched.push_back(std::make_shared<RecordingObserver>());
        request.observer = watched.back();
        EXPECT_TRUE((*scheduler)->Submit(std::move(request)).ok());
      }
      for (const Marked& one : marked) {
        if (one.submitted && one.cancel_step == step) (*scheduler)->Cancel(one.id);
      }
      (*scheduler)->Step();
      clock.Advance(absl::Milliseconds(10));
      if (step > 40 && (*scheduler)->Idle()) break;
    }
    std::vector<std::string> heard;
    for (const auto& observer : watched) {
      EXPECT_TRUE(observer->result().status.ok()) << observer->result().status;
      std::string bits;
      Append(observer->result().prompt_logprobs, &bits);
      Append(observer->sampled(), &bits);
      heard.push_back(std::move(bits));
    }
    parks_ += (*scheduler)->stats().parks;
    (poison ? poisoned_ : failed_) += (*scheduler)->stats().failed;
    return heard;
  }

  int64_t parks_ = 0, failed_ = 0, poisoned_ = 0;
  ModelRunner runner_{SmallConfig(), 1};
};

TEST_F(CanaryTest, NoMarkerShowsInAnotherTenantsLogits) {
  for (uint32_t seed = 1; seed <= 25; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    std::vector<Request> requests, same;
    const auto a = Run(seed, /*marker=*/3, /*poison=*/false, &requests);
    const auto b = Run(seed, /*marker=*/17, /*poison=*/true, &same);
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) {
      EXPECT_TRUE(a[i] == b[i]) << "watched request " << i;
      std::vector<kernels::SampledToken> sampled;
      const RequestResult alone = RunAlone(&runner_.model(), OneThread(), requests[i], &sampled);
      std::string bits;
      Append(alone.prompt_logprobs, &bits);
      Append(sampled, &bits);
      EXPECT_GT(bits.size(), 0u);
      EXPECT_TRUE(a[i] == bits) << "watched request " << i << " and itself alone";
    }
    if (HasFailure()) return;
  }
  // The runs did what they are here for.
  EXPECT_GT(parks_, 100);
  EXPECT_EQ(failed_, 0);
  EXPECT_GT(poisoned_, 25);
}

}  // namespace
}  // namespace reprise::scheduler
