// The scheduler over a real model on a CUDA device, everything decoding: time of a step, the part
// in which the device has nothing to do, and what observers that take their time cost, heard at
// once and beside the next step.
//
//   device_loop_bench --model DIR [--batches 1,32,256] [--prompt 2048] [--steps 200]
//                     [--observer-us 10]
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bench/must.h"
#include "kernels/device_queue.h"
#include "models/load_model.h"
#include "scheduler/scheduler.h"

namespace reprise::scheduler {
namespace {

using bench::Must;

// Keeps the thread for a while with each token, as detokenizing and writing to a stream do.
class BusyObserver final : public RequestObserver {
 public:
  explicit BusyObserver(double seconds) : seconds_(seconds) {}
  bool MayStop() const override { return false; }
  Verdict OnToken(const kernels::SampledToken&) override {
    const auto until = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds_);
    while (std::chrono::steady_clock::now() < until) {
    }
    return Verdict::kContinue;
  }
  void OnFinish(RequestResult) override {}

 private:
  const double seconds_;
};

class StepTimes final : public SchedulerMetrics {
 public:
  void OnStep(const Step& step) override {
    if (step.prefill_rows > 0) return;
    total_us.push_back(absl::ToDoubleMicroseconds(step.total));
    host_us.push_back(absl::ToDoubleMicroseconds(step.total - step.model));
  }
  std::vector<double> total_us, host_us;
};

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

struct Shape {
  int batch = 1, prompt = 2048, steps = 200;
  double observer_us = 0;
  Delivery delivery = Delivery::kAtOnce;
};

void Run(models::HybridModel* model, const kernels::Context& context, const Shape& shape) {
  const RealClock clock;
  StepTimes times;
  SchedulerOptions options;
  options.num_slots = options.step_logit_rows = shape.batch;
  options.step_tokens = model->max_rows();
  options.prefill_chunk_tokens = model->max_rows();
  options.max_queued = options.max_queued_per_tenant = 1 << 20;
  options.max_request_bytes = int64_t{1} << 40;
  options.max_parked_bytes = 0;
  options.delivery = shape.delivery;
  options.metrics = &times;
  const std::unique_ptr<Scheduler> scheduler =
      Must(Scheduler::Create(model, context, &clock, options));
  const auto observer = std::make_shared<BusyObserver>(1e-6 * shape.observer_us);
  for (int i = 0; i < shape.batch; ++i) {
    Request request;
    request.tenant = "bench";
    for (int j = 0; j < shape.prompt; ++j) {
      request.prompt.push_back((i * 7919 + j * 104729) % model->info().vocab_size);
    }
    request.max_tokens = 1 << 20;
    request.observer = observer;
    Must(scheduler->Submit(std::move(request)).status());
  }
  while (static_cast<int>(times.total_us.size()) < 20) scheduler->Step();
  times = StepTimes();
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < shape.steps; ++i) scheduler->Step();
  const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - begin;
  const double step_us = 1e6 * wall.count() / shape.steps;
  std::printf(
      "%4d sequences, %4.1f us per token %-16s: %7.0f us a step, %6.1f us (%4.1f%%) of them "
      "between two steps of the device, %8.0f tokens/s\n",
      shape.batch, shape.observer_us,
      shape.delivery == Delivery::kAtOnce ? "at once" : "beside the next", step_us,
      Median(times.host_us), 100 * Median(times.host_us) / step_us, 1e6 * shape.batch / step_us);
}

}  // namespace
}  // namespace reprise::scheduler

int main(int argc, char** argv) {
  using namespace reprise;
  using scheduler::Delivery;
  std::string directory;
  std::vector<int> batches = {1, 32, 256};
  scheduler::Shape shape;
  double observer_us = 10;
  CLI::App app("The scheduler over a model on a CUDA device");
  app.add_option("--model", directory)->required();
  app.add_option("--batches", batches)->delimiter(',');
  app.add_option("--prompt", shape.prompt)->check(CLI::Range(1, 1 << 20));
  app.add_option("--steps", shape.steps)->check(CLI::Range(1, 1 << 20));
  app.add_option("--observer-us", observer_us)->check(CLI::Range(0.0, 1e6));
  CLI11_PARSE(app, argc, argv);
  const auto pool = bench::Must(kernels::ThreadPool::Create(8));
  const auto queue = bench::Must(kernels::DeviceQueue::Create());
  models::LoadOptions load;
  load.context = {kernels::Device::kCuda, pool.get(), queue.get()};
  load.max_rows = 4096;
  const models::LoadedModel loaded = bench::Must(models::LoadModel(directory, load));
  std::printf("device %s\n", queue->info().name.c_str());
  for (const int batch : batches) {
    shape.batch = batch;
    for (const double us : {0.0, observer_us}) {
      for (const Delivery delivery : {Delivery::kAtOnce, Delivery::kBesideNextStep}) {
        shape.observer_us = us;
        shape.delivery = delivery;
        scheduler::Run(loaded.model.get(), load.context, shape);
      }
    }
  }
  return 0;
}
