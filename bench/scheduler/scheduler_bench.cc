// The scheduler's own time on the host in one step: everything but the model.
//
// The model does nothing: a vocabulary of one token and a state of eight bytes, so that what
// remains is planning, batch building, bookkeeping, observers. Four situations:
//   decode    all sequences decode
//   mixed     half of them are in their prompts
//   crowd     all decode, and as many wait that may not have a slot yet
//   rotate    as many are parked, and all take turns (parking, restoring)
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "scheduler/scheduler.h"

namespace reprise::scheduler {
namespace {

class NoModel final : public models::HybridModel {
 public:
  explicit NoModel(int max_rows) : max_rows_(max_rows) {
    info_.vocab_size = 1;
    layout_.Add(0, models::StateRole::kRgLru, kernels::DType::kF32, {2});
  }
  const models::ModelInfo& info() const override { return info_; }
  const models::StateLayout& state_layout() const override { return layout_; }
  int max_rows() const override { return max_rows_; }
  absl::Status Forward(const models::RaggedBatch&, models::StateSlots&,
                       absl::Span<float> logits) override {
    std::fill(logits.begin(), logits.end(), 0.0f);
    return absl::OkStatus();
  }

 private:
  int max_rows_;
  models::ModelInfo info_;
  models::StateLayout layout_;
};

class NoObserver final : public RequestObserver {
 public:
  Verdict OnToken(const kernels::SampledToken&) override { return Verdict::kContinue; }
  void OnFinish(RequestResult) override {}
};

// Adds up what is not the model.
class HostTime final : public SchedulerMetrics {
 public:
  void OnStep(const Step& step) override {
    host_us.push_back(absl::ToDoubleMicroseconds(step.total - step.model));
    total_us.push_back(absl::ToDoubleMicroseconds(step.total));
    parks += step.parks;
  }
  std::vector<double> host_us, total_us;
  int64_t parks = 0;
};

struct Situation {
  std::string name;
  double prefilling = 0.0;  // part of the sequences
  double waiting = 0.0;     // per running one
  absl::Duration time_slice = absl::Hours(1);
  absl::Duration max_wait = absl::Hours(1);  // zero: all that wait begin soon, and then take turns
};

double Quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1))];
}

int Run(const Situation& situation, int sequences, int tenants, int steps) {
  const std::unique_ptr<kernels::ThreadPool> pool = *kernels::ThreadPool::Create(1);
  kernels::Context context;
  context.pool = pool.get();
  NoModel model(2 * sequences);
  const RealClock clock;
  HostTime times;
  SchedulerOptions options;
  options.num_slots = sequences;
  options.step_tokens = options.step_logit_rows = 2 * sequences;
  options.prefill_chunk_tokens = 32;
  options.max_queued = options.max_queued_per_tenant = 1 << 20;
  options.max_request_bytes = int64_t{1} << 40;
  options.time_slice = situation.time_slice;
  options.max_wait = situation.max_wait;
  options.metrics = &times;
  auto scheduler = Scheduler::Create(&model, context, &clock, options);
  if (!scheduler.ok()) {
    std::fprintf(stderr, "%s\n", scheduler.status().ToString().c_str());
    return 1;
  }
  const auto observer = std::make_shared<NoObserver>();
  const int requests = sequences + static_cast<int>(situation.waiting * sequences);
  for (int i = 0; i < requests; ++i) {
    Request request;
    request.tenant = "tenant" + std::to_string(i % tenants);
    const bool prefills = i < static_cast<int>(situation.prefilling * sequences);
    request.prompt.assign(prefills ? 40'000'000 / requests : 1, 0);
    request.max_tokens = 1 << 20;
    request.observer = observer;
    if (const auto id = (*scheduler)->Submit(std::move(request)); !id.ok()) {
      std::fprintf(stderr, "%s\n", id.status().ToString().c_str());
      return 1;
    }
  }
  for (int i = 0; i < 20; ++i) (*scheduler)->Step();
  while (situation.max_wait == absl::ZeroDuration() && (*scheduler)->stats().waiting > 0) {
    (*scheduler)->Step();
  }
  times = HostTime();
  for (int i = 0; i < steps; ++i) (*scheduler)->Step();
  std::printf(
      "%-8s %5d sequences, %4d tenants: host %6.1f us median, %6.1f us p99; with sampling "
      "%6.1f us; %.1f parked a step\n",
      situation.name.c_str(), sequences, tenants, Quantile(times.host_us, 0.5),
      Quantile(times.host_us, 0.99), Quantile(times.total_us, 0.5),
      static_cast<double>(times.parks) / steps);
  return 0;
}

}  // namespace
}  // namespace reprise::scheduler

int main(int argc, char** argv) {
  using reprise::scheduler::Situation;
  int sequences = 256, tenants = 8, steps = 5000;
  CLI::App app("Host time of a scheduler step");
  app.add_option("--sequences", sequences)->check(CLI::Range(1, 1 << 16));
  app.add_option("--tenants", tenants)->check(CLI::Range(1, 1 << 16));
  app.add_option("--steps", steps)->check(CLI::Range(1, 1 << 24));
  CLI11_PARSE(app, argc, argv);
  for (const Situation& situation :
       {Situation{"decode"}, Situation{"mixed", 0.5}, Situation{"crowd", 0.0, 1.0},
        Situation{"rotate", 0.0, 1.0, absl::Milliseconds(5), absl::ZeroDuration()}}) {
    if (reprise::scheduler::Run(situation, sequences, tenants, steps) != 0) return 1;
  }
  return 0;
}
