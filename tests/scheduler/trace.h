// Random traffic through a scheduler, and the proof that none of it shows in anybody's output.
#ifndef REPRISE_TESTS_SCHEDULER_TRACE_H_
#define REPRISE_TESTS_SCHEDULER_TRACE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <vector>

#include "base/clock.h"
#include "models/hybrid_model.h"
#include "scheduler/scheduler.h"
#include "scheduler/testing/recording_observer.h"

namespace reprise::scheduler {

// What goes through the model, for the limits of a step.
class WatchedModel final : public models::HybridModel {
 public:
  explicit WatchedModel(models::HybridModel* model) : model_(*model) {}
  const models::ModelInfo& info() const override { return model_.info(); }
  const models::StateLayout& state_layout() const override { return model_.state_layout(); }
  int max_rows() const override { return model_.max_rows(); }
  absl::Status Forward(const models::RaggedBatch& batch, models::StateSlots& slots,
                       absl::Span<float> logits) override {
    Watch(batch);
    return model_.Forward(batch, slots, logits);
  }
  absl::StatusOr<float*> ForwardOnDevice(const models::RaggedBatch& batch,
                                         models::StateSlots& slots) override {
    Watch(batch);
    return model_.ForwardOnDevice(batch, slots);
  }
  kernels::Context context() const override { return model_.context(); }

  int rows = 0, logit_rows = 0;  // of the last step

 private:
  void Watch(const models::RaggedBatch& batch) {
    rows = batch.num_rows();
    logit_rows = static_cast<int>(batch.logit_rows.size());
  }

  models::HybridModel& model_;
};

// One request, from start to end, in a scheduler of its own.
RequestResult RunAlone(models::HybridModel* model, const kernels::Context& context, Request request,
                       std::vector<kernels::SampledToken>* sampled = nullptr);

struct TraceSize {
  int requests = 40;
  int longest_prompt = 120;
  int longest_answer = 30;
};

// Everything random follows from the seed: options, requests, clients, the clock. Failures are
// reported through GoogleTest with the seed.
class Trace {
 public:
  // If context.health fails while the trace runs, every request must end with that, and no state
  // may leave the device afterwards.
  Trace(models::HybridModel* model, const kernels::Context& context, uint32_t seed,
        const TraceSize& size);

  // Until every request has ended, checking budgets, slots and counts after each step.
  void Run();
  // That every request ended once, was not starved, and gave what it gives alone; that each state
  // which it left on the way goes on to the same end.
  void CheckOutputs();

  const SchedulerStats& stats() const { return stats_; }
  // Requests, and forks of them, that ended because the device had failed.
  int failed_with_device() const { return failed_with_device_; }
  // Of the prefix cache; empty when there was none.
  PrefixCacheStats cache_stats() const;

 private:
  struct PlannedFork {
    kernels::SamplingParams sampling;
    int cancel_at = -1;
    std::shared_ptr<RecordingObserver> observer = std::make_shared<RecordingObserver>();
  };
  struct Planned {
    Request request;
    int begin_step = 0;
    int follows = -1;     // goes on from the state of that request
    int cancel_at = -1;   // once so many tokens were generated; 0: while in its prompt
    int load_steps = -1;  // >= 0: its state takes so many steps to load
    bool slow_reader = false;
    std::vector<PlannedFork> forks;
    std::shared_ptr<RecordingObserver> observer = std::make_shared<RecordingObserver>();
    std::shared_ptr<StateFuture> future;
    std::optional<Request> submitted;  // as the scheduler got it, with its state
    RequestId id = 0;
    int submit_step = 0;
  };

  int Random(int low, int high) {  // inclusive
    return low + static_cast<int>(random_() % static_cast<uint32_t>(high - low + 1));
  }
  bool Chance(int percent) { return Random(1, 100) <= percent; }
  std::vector<int32_t> RandomTokens(int count);
  // Begins like others of the trace.
  std::vector<int32_t> RandomPrompt();
  kernels::SamplingParams RandomSampling();
  SchedulerOptions RandomOptions();
  Planned RandomRequest(int index);
  void ActAsClients(int step);
  void Submit(Planned& planned, int step);
  void CheckStep();
  // That left the device so far, whoever has them.
  int64_t StatesOutside() const;
  void CheckOne(const Planned& planned);
  // From a state with so many tokens of prompt and answer, alone, to the end.
  void CheckGoesOn(const Planned& planned, const SequenceState& state, int64_t prompt_tokens,
                   size_t answer_tokens, const RequestResult& alone);

  WatchedModel model_;
  const kernels::Context context_;
  kernels::Context alone_;  // of a device that does not fail
  const uint32_t seed_;
  const TraceSize size_;
  std::mt19937 random_;
  FakeClock clock_;
  SchedulerOptions options_;
  std::vector<std::vector<int32_t>> beginnings_;
  bool ample_parking_ = false;
  int drain_step_ = -1;
  std::unique_ptr<Scheduler> scheduler_;
  std::vector<Planned> requests_;
  int most_live_ = 0;
  int failed_with_device_ = 0;
  int64_t states_at_failure_ = -1;
  SchedulerStats stats_;
};

}  // namespace reprise::scheduler

#endif  // REPRISE_TESTS_SCHEDULER_TRACE_H_
