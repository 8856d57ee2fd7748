#include "scheduler/internal/admission.h"

#include <gtest/gtest.h>

#include <vector>

namespace reprise::scheduler {
namespace {

constexpr int64_t kStateBytes = 1000;

class AdmissionTest : public ::testing::Test {
 protected:
  static Request MakeRequest(const std::string& tenant, int prompt_tokens, int max_tokens = 1) {
    Request request;
    request.tenant = tenant;
    request.prompt.resize(prompt_tokens);
    request.max_tokens = max_tokens;
    return request;
  }

  absl::StatusOr<Admission::Ticket> Admit(const Request& request) {
    return admission_->Admit(request, PredictedBytes(request, kStateBytes), now_);
  }
  SchedulerError Error(const Request& request) {
    return GetSchedulerError(Admit(request).status());
  }
  void Restart() { admission_ = std::make_unique<Admission>(options_); }

  // Full steps at `rate` prompt rows a second.
  void Measure(double rate) {
    for (int i = 0; i < 10; ++i) {
      now_ += absl::Milliseconds(100);
      admission_->NoteStep(options_.step_tokens, absl::Seconds(options_.step_tokens / rate), now_);
    }
  }
  // A request of `tenant` whose first token may take that long.
  Request Until(absl::Duration patience, const std::string& tenant, int prompt_tokens) {
    Request request = MakeRequest(tenant, prompt_tokens);
    request.deadline = now_ + patience;
    return request;
  }

  SchedulerOptions options_;
  absl::Time now_ = absl::FromUnixSeconds(1000);
  std::unique_ptr<Admission> admission_ = std::make_unique<Admission>(options_);
};

TEST_F(AdmissionTest, QueuesAreBounded) {
  options_.max_queued = 3;
  options_.max_queued_per_tenant = 2;
  Restart();
  std::vector<Admission::Ticket> tickets;
  for (const char* tenant : {"a", "a", "b"}) {
    auto ticket = Admit(MakeRequest(tenant, 5));
    ASSERT_TRUE(ticket.ok());
    tickets.push_back(*std::move(ticket));
    if (tickets.size() == 2) {
      EXPECT_EQ(Error(MakeRequest("a", 5)), SchedulerError::kTenantQueueFull);
    }
  }
  EXPECT_EQ(Error(MakeRequest("c", 5)), SchedulerError::kQueueFull);
  EXPECT_EQ(Admit(MakeRequest("c", 5)).status().code(), absl::StatusCode::kResourceExhausted);
  tickets[0].LeaveQueue(now_);
  EXPECT_TRUE(Admit(MakeRequest("a", 5)).ok());  // and its ticket is given back at once
  tickets.clear();
  EXPECT_EQ(admission_->queued(), 0);
  EXPECT_EQ(admission_->bytes(), 0);
  const auto refusals = admission_->TakeRefusals();
  EXPECT_EQ(refusals[static_cast<int>(SchedulerError::kTenantQueueFull)], 1);
  EXPECT_EQ(refusals[static_cast<int>(SchedulerError::kQueueFull)], 2);
  EXPECT_EQ(admission_->TakeRefusals()[static_cast<int>(SchedulerError::kQueueFull)], 0);
}

TEST_F(AdmissionTest, TheRetryDelayIsWhenAPlaceComesFree) {
  options_.max_queued = 1;
  Restart();
  Admission::Ticket ticket = *Admit(MakeRequest("a", 5));
  const auto delay = [&] { return GetRetryDelay(Admit(MakeRequest("a", 5)).status()); };
  // Nothing measured: a second for each that was refused.
  EXPECT_EQ(delay(), absl::Seconds(1));
  EXPECT_EQ(delay(), absl::Seconds(2));
  // Two departures a second for a while.
  for (int i = 0; i < 200; ++i) {
    now_ += absl::Milliseconds(500);
    ticket.LeaveQueue(now_);
    ticket = *Admit(MakeRequest("a", 5));
  }
  EXPECT_NEAR(absl::ToDoubleSeconds(*delay()), 0.5, 0.05);
  EXPECT_NEAR(absl::ToDoubleSeconds(*delay()), 1.0, 0.05);
  EXPECT_NEAR(absl::ToDoubleSeconds(*delay()), 1.5, 0.1);
  for (int i = 0; i < 1000; ++i) delay();
  EXPECT_EQ(delay(), absl::Seconds(30));
}

TEST_F(AdmissionTest, ATenantsDelayIsForItsShareOfThePlaces) {
  options_.max_queued_per_tenant = 1;
  options_.tenant_weight = [](const std::string& tenant) { return tenant == "a" ? 1.0 : 3.0; };
  Restart();
  Admission::Ticket a = *Admit(MakeRequest("a", 5)), b = *Admit(MakeRequest("b", 5));
  for (int i = 0; i < 200; ++i) {
    now_ += absl::Milliseconds(500);
    b.LeaveQueue(now_);
    b = *Admit(MakeRequest("b", 5));
  }
  EXPECT_NEAR(absl::ToDoubleSeconds(*GetRetryDelay(Admit(MakeRequest("a", 5)).status())), 2.0, 0.2);
}

TEST_F(AdmissionTest, PredictedBytesAreCapped) {
  Request with_state = MakeRequest("a", 100, 50);
  with_state.export_state = true;
  EXPECT_EQ(PredictedBytes(with_state, kStateBytes), kStateBytes + 4 * 200 + 4 * 100);
  EXPECT_EQ(PredictedBytes(MakeRequest("a", 100, 50), kStateBytes), 4 * 200 + 4 * 100);
  Request scores = MakeRequest("a", 100, 0);
  scores.prompt_logprobs = true;
  scores.top_logprobs = 3;
  EXPECT_EQ(PredictedBytes(scores, kStateBytes),
            4 * 200 + 100 * static_cast<int64_t>(sizeof(kernels::SampledToken) +
                                                 3 * sizeof(kernels::TokenLogprob)));
  // "No limit" is not a prediction.
  EXPECT_LT(PredictedBytes(MakeRequest("a", 1, 2147483647), kStateBytes), int64_t{10} << 20);

  options_.max_request_bytes = 5000;
  Restart();
  const Request half = MakeRequest("a", 300);  // 2408 bytes
  Admission::Ticket first = *Admit(half), second = *Admit(half);
  const absl::Status full = Admit(half).status();
  EXPECT_EQ(GetSchedulerError(full), SchedulerError::kBytesExhausted);
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(GetRetryDelay(full).has_value());
  first.LeaveQueue(now_);  // it runs now, and still needs them
  EXPECT_EQ(Error(half), SchedulerError::kBytesExhausted);
  first.Reset();
  EXPECT_TRUE(Admit(half).ok());
  const absl::Status never = Admit(MakeRequest("a", 1000)).status();
  EXPECT_EQ(GetSchedulerError(never), SchedulerError::kTooLarge);
  EXPECT_EQ(never.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(GetRetryDelay(never).has_value());
}

TEST_F(AdmissionTest, ADeadlineThatCannotBeMetIsRefused) {
  EXPECT_TRUE(Admit(Until(absl::Seconds(1), "a", 5000)).ok());  // nothing is known yet
  EXPECT_EQ(Error(Until(absl::ZeroDuration(), "a", 1)), SchedulerError::kDeadlineUnreachable);
  Measure(1000);
  const absl::Status refused = Admit(Until(absl::Seconds(1), "a", 5000)).status();
  EXPECT_EQ(GetSchedulerError(refused), SchedulerError::kDeadlineUnreachable);
  EXPECT_EQ(refused.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(Admit(Until(absl::Seconds(6), "a", 5000)).ok());
  EXPECT_TRUE(Admit(Until(absl::Seconds(1), "a", 500)).ok());
  // What was measured long ago refuses nobody.
  now_ += absl::Seconds(31);
  EXPECT_TRUE(Admit(Until(absl::Seconds(1), "a", 5000)).ok());
}

TEST_F(AdmissionTest, PredictionsCountWhatIsAhead) {
  Measure(1000);
  std::vector<Admission::Ticket> tickets;
  for (int i = 0; i < 10; ++i) tickets.push_back(*Admit(MakeRequest("a", 4000)));
  // After 40 s of backlog, or in turns with ten others: 4 s * 11.
  EXPECT_EQ(Error(Until(absl::Seconds(20), "a", 4000)), SchedulerError::kDeadlineUnreachable);
  // Another tenant has half of the speed, and a short prompt has its turn soon.
  EXPECT_TRUE(Admit(Until(absl::Seconds(9), "b", 4000)).ok());
  EXPECT_TRUE(Admit(Until(absl::Seconds(2), "a", 100)).ok());
  // A higher priority does not wait for lower ones.
  Request high = Until(absl::Seconds(6), "a", 4000);
  high.priority = Priority::kHigh;
  EXPECT_TRUE(Admit(high).ok());
  for (Admission::Ticket& ticket : tickets) ticket.Fed(4000);
  EXPECT_TRUE(Admit(Until(absl::Seconds(6), "a", 4000)).ok());
}

TEST_F(AdmissionTest, ARefusalHasToBeSure) {
  Measure(1000);
  // A second is predicted, and a fifth less is believed.
  EXPECT_TRUE(Admit(Until(absl::Milliseconds(850), "a", 1000)).ok());
  EXPECT_EQ(Error(Until(absl::Milliseconds(750), "a", 1000)), SchedulerError::kDeadlineUnreachable);
}

TEST_F(AdmissionTest, ATenantHasOnlyItsShareOfTheSpeed) {
  Measure(1000);
  std::vector<Admission::Ticket> tickets;
  for (int i = 0; i < 10; ++i) tickets.push_back(*Admit(MakeRequest("b", 4000)));
  // Two seconds at half of the speed, however much the other has waiting.
  EXPECT_EQ(Error(Until(absl::Milliseconds(1500), "a", 1000)),
            SchedulerError::kDeadlineUnreachable);
  EXPECT_TRUE(Admit(Until(absl::Milliseconds(1700), "a", 1000)).ok());
}

// Each of the three ways to see what is ahead, while the two others are far longer: what has been
// computed, or has ended, counts in none.
TEST_F(AdmissionTest, WhatIsDoneIsAheadOfNobody) {
  const auto low = [&](const std::string& tenant) {
    Request request = MakeRequest(tenant, 1);
    request.priority = Priority::kLow;
    return request;
  };
  for (const bool ends : {false, true}) {
    const auto done = [&](std::vector<Admission::Ticket>& tickets) {
      for (Admission::Ticket& ticket : tickets) {
        if (ends) {
          ticket.Reset();
        } else {
          ticket.Fed(4000);
        }
      }
    };
    options_ = {};
    Restart();
    Measure(1000);
    std::vector<Admission::Ticket> others, own;
    others.push_back(*Admit(low("a")));  // so that the tenant's account stays
    // Many turns; half of the speed.
    for (int i = 0; i < 100; ++i) others.push_back(*Admit(low("z")));
    for (int i = 0; i < 3; ++i) own.push_back(*Admit(MakeRequest("a", 4000)));
    EXPECT_FALSE(Admit(Until(absl::Seconds(1), "a", 1000)).ok());
    done(own);
    EXPECT_TRUE(Admit(Until(absl::Seconds(1), "a", 1000)).ok()) << "after all that wait";
    // And much that waits; a third of the speed.
    own.clear();
    others.push_back(*Admit(MakeRequest("b", 100000)));
    for (int i = 0; i < 3; ++i) own.push_back(*Admit(MakeRequest("a", 4000)));
    EXPECT_FALSE(Admit(Until(absl::Seconds(3), "a", 1000)).ok());
    done(own);
    EXPECT_TRUE(Admit(Until(absl::Seconds(3), "a", 1000)).ok()) << "after the tenant's own";
    // Little of the speed, and one other.
    own.clear();
    others.clear();
    options_.tenant_weight = [](const std::string& tenant) { return tenant == "b" ? 1000.0 : 1.0; };
    Restart();
    Measure(1000);
    others.push_back(*Admit(MakeRequest("b", 100000)));
    for (int i = 0; i < 10; ++i) own.push_back(*Admit(MakeRequest("a", 4000)));
    EXPECT_FALSE(Admit(Until(absl::Seconds(2), "a", 1000)).ok());
    done(own);
    EXPECT_TRUE(Admit(Until(absl::Seconds(2), "a", 1000)).ok()) << "in turns";
    own.clear();
    others.clear();
  }
}

TEST_F(AdmissionTest, AFewStepsOrShortOnesAreNoMeasurement) {
  const auto step = [&](int rows, double rate) {
    now_ += absl::Milliseconds(100);
    admission_->NoteStep(rows, absl::Seconds(rows / rate), now_);
  };
  step(1, 10);  // says nothing before a full one has been seen
  for (int i = 0; i < 4; ++i) step(options_.step_tokens, 1000);
  EXPECT_TRUE(Admit(Until(absl::Seconds(1), "a", 5000)).ok());
  step(options_.step_tokens, 1000);
  EXPECT_EQ(Error(Until(absl::Seconds(1), "a", 5000)), SchedulerError::kDeadlineUnreachable);
  EXPECT_TRUE(Admit(Until(absl::Milliseconds(4100), "a", 5000)).ok());
}

TEST_F(AdmissionTest, ShortStepsDoNotLowerTheMeasuredSpeed) {
  Measure(1000);
  for (int i = 0; i < 100; ++i) admission_->NoteStep(1, absl::Milliseconds(100), now_);
  EXPECT_TRUE(Admit(Until(absl::Seconds(6), "a", 5000)).ok());
}

TEST_F(AdmissionTest, ADrainClosesTheDoor) {
  admission_->Close();
  const absl::Status status = Admit(MakeRequest("a", 1)).status();
  EXPECT_EQ(GetSchedulerError(status), SchedulerError::kDraining);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace reprise::scheduler
