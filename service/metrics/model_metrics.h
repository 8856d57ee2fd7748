// What one model's scheduler and its calls tell, counted for Prometheus.
#ifndef REPRISE_SERVICE_METRICS_MODEL_METRICS_H_
#define REPRISE_SERVICE_METRICS_MODEL_METRICS_H_

#include <prometheus/counter.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <array>
#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "scheduler/scheduler_metrics.h"
#include "service/metrics/batched_histogram.h"

namespace reprise::service {

// The scheduler's thread calls what SchedulerMetrics has; the rest is thread-safe. What comes once
// per token is summed up by step, so that a step costs a handful of locks however many rows it has.
class ModelMetrics final : public scheduler::SchedulerMetrics {
 public:
  // `registry` outlives this object.
  ModelMetrics(prometheus::Registry& registry, const std::string& model);

  void OnStep(const Step& step) override;
  void OnFirstToken(absl::Duration since_submit) override;
  void OnTokenGap(absl::Duration gap) override;
  void OnMove(Move move, int64_t bytes, absl::Duration time) override;
  void OnFinish(const Finish& finish) override;

  // From a call's arrival to the scheduler's queue.
  void OnPrepared(absl::Duration time) { prepare_.Observe(absl::ToDoubleSeconds(time)); }
  // A call that came to the scheduler has ended; `restored_tokens` came with its session.
  void OnCallEnd(absl::Duration since_arrival, int64_t restored_tokens);
  // The commit at a turn's end.
  void OnCommit(absl::Duration time) { commit_.Observe(absl::ToDoubleSeconds(time)); }

 private:
  // Of Finish.
  enum { kMaxTokens, kStopToken, kStopString, kDrained, kCancelled, kDeadline, kError, kReasons };

  ModelMetrics(prometheus::Registry& registry, const prometheus::Labels& model);

  // As the scheduler's thread has them until the step ends.
  BatchedHistogram first_token_, token_gap_;
  int64_t generated_ = 0;

  prometheus::Histogram& step_model_;
  prometheus::Histogram& step_scheduler_;
  prometheus::Histogram& step_decode_rows_;
  prometheus::Histogram& step_prefill_rows_;
  prometheus::Histogram& queue_;
  prometheus::Histogram& load_;
  prometheus::Histogram& prefill_;
  prometheus::Histogram& decode_;
  prometheus::Histogram& prepare_;
  prometheus::Histogram& commit_;
  prometheus::Histogram& e2e_;
  prometheus::Histogram& save_time_;
  prometheus::Histogram& load_time_;
  prometheus::Counter& save_bytes_;
  prometheus::Counter& load_bytes_;
  prometheus::Counter& generation_tokens_;
  prometheus::Counter& restored_tokens_;
  prometheus::Counter& parks_;
  prometheus::Counter& restores_;
  prometheus::Counter& checkpoints_;
  std::array<prometheus::Counter*, scheduler::kNumSchedulerErrors> refused_{};
  std::array<prometheus::Counter*, kReasons> finished_{};
};

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_METRICS_MODEL_METRICS_H_
