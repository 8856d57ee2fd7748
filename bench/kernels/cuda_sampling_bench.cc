// Sampling on CUDA, in steps of 1 to 256 rows of 256,000 logits: microseconds from the upload of
// the requests to the end of the download, with logits that are not in the L2 cache, beside the
// time in which a copy would read the logits once; and what the host waits for one step.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "bench/must.h"
#include "kernels/device_sampling.h"

namespace reprise::kernels::bench {
namespace {

constexpr int kVocab = 256000, kMostRows = 256, kTurns = 21;
constexpr size_t kFlushBytes = size_t{512} << 20;

using reprise::bench::Must;

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

struct Mode {
  const char* name;
  SamplingParams params;
  int counts = 0;
  int top_logprobs = 0;
};

std::vector<Mode> Modes() {
  std::vector<Mode> modes;
  const auto add = [&](const char* name, float temperature, int top_k, float top_p) -> Mode& {
    Mode mode;
    mode.name = name;
    mode.params.temperature = temperature;
    mode.params.top_k = top_k;
    mode.params.top_p = top_p;
    modes.push_back(mode);
    return modes.back();
  };
  add("greedy", 0, 0, 1);
  add("greedy, 5 top logprobs", 0, 0, 1).top_logprobs = 5;
  add("temperature", 1, 0, 1);
  add("top_p 0.95", 1, 0, 0.95f);
  add("top_p 0.95, top_k 50", 1, 50, 0.95f);
  Mode& penalized = add("top_k 50, penalties on 500 tokens", 0.8f, 50, 1);
  penalized.params.repetition_penalty = 1.1f;
  penalized.params.frequency_penalty = 0.2f;
  penalized.counts = 500;
  return modes;
}

class Bench {
 public:
  Bench() : queue_(Must(DeviceQueue::Create())) {
    context_.device = Device::kCuda;
    context_.queue = queue_.get();
    sampler_ = Must(DeviceSampler::Create(kMostRows, kVocab, context_));
    const size_t bytes = sizeof(float) * kMostRows * kVocab;
    logits_ = Must(Buffer::Allocate(Device::kCuda, bytes));
    from_ = Must(Buffer::Allocate(Device::kCuda, kFlushBytes));
    to_ = Must(Buffer::Allocate(Device::kCuda, kFlushBytes));
    std::vector<double> times;
    for (int i = 0; i < kTurns; ++i) {
      times.push_back(Microseconds([&] { Flush(); }));
    }
    bytes_per_microsecond_ = 2.0 * kFlushBytes / Median(times);
    std::printf("%s, copy: %.0f GB/s\n", queue_->info().name.c_str(), bytes_per_microsecond_ / 1e3);
  }

  // Normal logits of the given deviation. `sharp` of them stand out, as a trained model's do.
  void Fill(float deviation, int sharp) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0.0f, deviation);
    std::vector<float> row(kVocab);
    for (int r = 0; r < kMostRows; ++r) {
      if (r < 4) {
        for (float& x : row) x = normal(random);
        for (int i = 0; i < sharp; ++i) row[random() % kVocab] = 20.0f - 0.3f * i;
      }
      Must(queue_->Upload(logits_.as<float>() + static_cast<size_t>(r) * kVocab, row.data(),
                          sizeof(float) * kVocab));
    }
    Must(queue_->Synchronize());
  }

  void Run(const char* shape, const Mode& mode, int rows) {
    std::vector<TokenCount> counts;
    for (int i = 0; i < mode.counts; ++i) counts.push_back({i * 97 % kVocab, i % 3});
    std::vector<SamplingParams> params(rows, mode.params);
    std::vector<RowRequest> requests(rows);
    for (int r = 0; r < rows; ++r) {
      params[r].seed = r;
      requests[r].sample.params = &params[r];
      requests[r].sample.counts = counts;
      requests[r].sample.top_logprobs = mode.top_logprobs;
    }
    std::vector<double> device, host;
    std::vector<absl::StatusOr<SampledToken>> results;
    for (int turn = 0; turn < kTurns; ++turn) {
      for (RowRequest& request : requests) ++request.sample.index;
      Flush();
      Flush();
      device.push_back(Microseconds([&] { Must(sampler_->Queue(logits_.as<float>(), requests)); }));
      Must(sampler_->Collect(&results));
      for (const auto& result : results) Must(result.status());
      Must(queue_->Synchronize());
      const auto begin = std::chrono::steady_clock::now();
      Must(sampler_->Sample(logits_.as<float>(), requests, &results));
      host.push_back(
          std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin)
              .count());
    }
    const double once = 4.0 * rows * kVocab / bytes_per_microsecond_;
    std::printf("%-8s %-34s %4d rows: %7.1f us, reading once %6.1f us; the host waits %7.1f us\n",
                shape, mode.name, rows, Median(device), once, Median(host));
  }

 private:
  // The host gets ahead while this runs, so that its own time is not measured.
  void Flush() { Must(queue_->Copy(to_.data(), from_.data(), kFlushBytes)); }

  template <typename Fn>
  double Microseconds(Fn&& fn) {
    Must(queue_->Record(begin_));
    fn();
    Must(queue_->Record(end_));
    Must(queue_->Synchronize());
    return Must(DeviceQueue::Milliseconds(begin_, end_)) * 1e3;
  }

  std::unique_ptr<DeviceQueue> queue_;
  Context context_;
  std::unique_ptr<DeviceSampler> sampler_;
  Buffer logits_, from_, to_;
  DeviceEvent begin_, end_;
  double bytes_per_microsecond_ = 0.0;
};

void Main() {
  Bench bench;
  for (const bool sharp : {true, false}) {
    bench.Fill(sharp ? 2.0f : 3.0f, sharp ? 30 : 0);
    for (const Mode& mode : Modes()) {
      for (const int rows : {1, 32, kMostRows}) bench.Run(sharp ? "sharp" : "normal", mode, rows);
    }
  }
}

}  // namespace
}  // namespace reprise::kernels::bench

int main() { reprise::kernels::bench::Main(); }
