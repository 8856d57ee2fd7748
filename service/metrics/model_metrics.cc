#include "service/metrics/model_metrics.h"

#include "service/metrics/buckets.h"
#include "service/metrics/state_transfers.h"

namespace reprise::service {
namespace {

prometheus::Histogram& AddHistogram(prometheus::Registry& registry, const char* name,
                                    const char* help, const prometheus::Labels& labels,
                                    const buckets::Edges& edges) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add(labels, edges);
}

prometheus::Counter& AddCounter(prometheus::Registry& registry, const char* name, const char* help,
                                const prometheus::Labels& labels) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add(labels);
}

prometheus::Labels With(prometheus::Labels labels, const char* name, const char* value) {
  labels.emplace(name, value);
  return labels;
}

prometheus::Histogram& StepTime(prometheus::Registry& registry, const prometheus::Labels& model,
                                const char* phase) {
  return AddHistogram(registry, "reprise_step_seconds",
                      "Time of a step, in the model (with sampling) and in the scheduler around it",
                      With(model, "phase", phase), buckets::Step());
}

prometheus::Histogram& StepRows(prometheus::Registry& registry, const prometheus::Labels& model,
                                const char* kind) {
  return AddHistogram(registry, "reprise_step_rows", "Rows of a step, of decoding and of prompts",
                      With(model, "kind", kind), buckets::Rows());
}

}  // namespace

ModelMetrics::ModelMetrics(prometheus::Registry& registry, const std::string& name)
    : ModelMetrics(registry, prometheus::Labels{{"model_name", name}}) {}

ModelMetrics::ModelMetrics(prometheus::Registry& r, const prometheus::Labels& model)
    : first_token_(AddHistogram(r, "reprise_time_to_first_token_seconds",
                                "From a request's entry into the queue to its first token", model,
                                buckets::FirstToken()),
                   buckets::FirstToken()),
      token_gap_(AddHistogram(r, "reprise_inter_token_latency_seconds",
                              "Between two tokens of one request", model, buckets::TokenGap()),
                 buckets::TokenGap()),
      step_model_(StepTime(r, model, "model")),
      step_scheduler_(StepTime(r, model, "scheduler")),
      step_decode_rows_(StepRows(r, model, "decode")),
      step_prefill_rows_(StepRows(r, model, "prefill")),
      queue_(
          AddHistogram(r, "reprise_request_queue_time_seconds",
                       "From a request's entry into the queue to its first slot, loading included",
                       model, buckets::Request())),
      load_(AddHistogram(r, "reprise_request_load_time_seconds",
                         "The part of the queue time in which the session's state was not there",
                         model, buckets::Request())),
      prefill_(AddHistogram(r, "reprise_request_prefill_time_seconds",
                            "From the first slot to the first token", model, buckets::Request())),
      decode_(AddHistogram(r, "reprise_request_decode_time_seconds",
                           "From the first token to the last", model, buckets::Request())),
      prepare_(AddHistogram(r, "reprise_request_prepare_time_seconds",
                            "From a call's arrival to the queue: checks, tokenizer, session's head",
                            model, buckets::Request())),
      commit_(AddHistogram(r, "reprise_request_commit_time_seconds", "The commit at a turn's end",
                           model, buckets::Request())),
      e2e_(AddHistogram(r, "reprise_e2e_request_latency_seconds",
                        "From a Generate call's arrival to its end", model, buckets::Request())),
      save_time_(StateTransferSeconds(r, With(model, "tier", "device"), "save")),
      load_time_(StateTransferSeconds(r, With(model, "tier", "device"), "load")),
      save_bytes_(StateTransferBytes(r, With(model, "tier", "device"), "save")),
      load_bytes_(StateTransferBytes(r, With(model, "tier", "device"), "load")),
      generation_tokens_(
          AddCounter(r, "reprise_generation_tokens_total", "Tokens that were generated", model)),
      restored_tokens_(AddCounter(r, "reprise_restored_tokens_total",
                                  "Tokens that sessions' states held when their turns began",
                                  model)),
      parks_(AddCounter(r, "reprise_parks_total", "Sequences that gave their slot up for another",
                        model)),
      restores_(AddCounter(r, "reprise_restores_total", "States that were put into a slot", model)),
      checkpoints_(AddCounter(r, "reprise_checkpoints_total",
                              "States that were taken from running sequences", model)) {
  for (int i = 1; i < scheduler::kNumSchedulerErrors; ++i) {
    refused_[i] =
        &AddCounter(r, "reprise_requests_refused_total", "Requests that the scheduler refused",
                    With(model, "reason",
                         scheduler::SchedulerErrorName(static_cast<scheduler::SchedulerError>(i))));
  }
  constexpr std::array<const char*, kReasons> kNames = {
      "max_tokens", "stop_token", "stop_string", "drained", "cancelled", "deadline", "error"};
  for (int i = 0; i < kReasons; ++i) {
    finished_[i] = &AddCounter(r, "reprise_requests_finished_total",
                               "Requests that ended, after they were accepted",
                               With(model, "finished_reason", kNames[i]));
  }
}

void ModelMetrics::OnStep(const Step& step) {
  step_model_.Observe(absl::ToDoubleSeconds(step.model));
  step_scheduler_.Observe(absl::ToDoubleSeconds(step.total - step.model));
  step_decode_rows_.Observe(step.decode_rows);
  step_prefill_rows_.Observe(step.prefill_rows);
  first_token_.Flush();
  token_gap_.Flush();
  if (generated_ > 0) generation_tokens_.Increment(static_cast<double>(generated_));
  generated_ = 0;
  if (step.parks > 0) parks_.Increment(step.parks);
  if (step.restores > 0) restores_.Increment(step.restores);
  if (step.checkpoints > 0) checkpoints_.Increment(step.checkpoints);
  for (int i = 1; i < scheduler::kNumSchedulerErrors; ++i) {
    if (step.refused[i] > 0) refused_[i]->Increment(step.refused[i]);
  }
}

void ModelMetrics::OnFirstToken(absl::Duration since_submit) {
  first_token_.Observe(absl::ToDoubleSeconds(since_submit));
  ++generated_;
}

void ModelMetrics::OnTokenGap(absl::Duration gap) {
  token_gap_.Observe(absl::ToDoubleSeconds(gap));
  ++generated_;
}

void ModelMetrics::OnMove(Move move, int64_t bytes, absl::Duration time) {
  const bool saves = move == Move::kOutOfSlot;
  (saves ? save_time_ : load_time_).Observe(absl::ToDoubleSeconds(time));
  (saves ? save_bytes_ : load_bytes_).Increment(static_cast<double>(bytes));
}

void ModelMetrics::OnFinish(const Finish& finish) {
  int reason = kError;
  if (finish.code == absl::StatusCode::kCancelled) {
    reason = kCancelled;
  } else if (finish.code == absl::StatusCode::kDeadlineExceeded) {
    reason = kDeadline;
  } else if (finish.code == absl::StatusCode::kOk) {
    switch (finish.reason) {
      case scheduler::FinishReason::kMaxTokens:
        reason = kMaxTokens;
        break;
      case scheduler::FinishReason::kStopToken:
        reason = kStopToken;
        break;
      case scheduler::FinishReason::kStopString:
        reason = kStopString;
        break;
      case scheduler::FinishReason::kDrained:
        reason = kDrained;
        break;
    }
  }
  finished_[reason]->Increment();
  if (!finish.started) return;
  const scheduler::Timeline& times = *finish.timeline;
  queue_.Observe(absl::ToDoubleSeconds(times.queue));
  if (times.load > absl::ZeroDuration()) load_.Observe(absl::ToDoubleSeconds(times.load));
  if (finish.generated_tokens == 0) return;
  prefill_.Observe(absl::ToDoubleSeconds(times.prefill));
  decode_.Observe(absl::ToDoubleSeconds(times.decode));
}

void ModelMetrics::OnCallEnd(absl::Duration since_arrival, int64_t restored_tokens) {
  e2e_.Observe(absl::ToDoubleSeconds(since_arrival));
  if (restored_tokens > 0) restored_tokens_.Increment(static_cast<double>(restored_tokens));
}

}  // namespace reprise::service
