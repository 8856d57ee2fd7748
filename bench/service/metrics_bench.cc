// Host time that counting adds: to a step, to a request, and to a scrape.
//
//   metrics_bench [--sequences N]
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

#include "service/metrics/buckets.h"
#include "service/metrics/metrics.h"

namespace {

using reprise::scheduler::SchedulerMetrics;
using reprise::service::Metrics;
using reprise::service::ModelMetrics;

constexpr int kRounds = 21;
constexpr int kCalls = 2000;

// Median over the rounds of the nanoseconds that one call of `work` takes.
template <typename Work>
double Nanoseconds(int calls, Work work) {
  std::vector<double> rounds;
  for (int r = 0; r < kRounds; ++r) {
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < calls; ++i) work(i);
    const std::chrono::duration<double, std::nano> spent = std::chrono::steady_clock::now() - begin;
    rounds.push_back(spent.count() / calls);
  }
  std::nth_element(rounds.begin(), rounds.begin() + kRounds / 2, rounds.end());
  return rounds[kRounds / 2];
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("host time of counting");
  int sequences = 256;
  app.add_option("--sequences", sequences, "decoding sequences of a step")
      ->check(CLI::Range(1, 65536));
  CLI11_PARSE(app, argc, argv);

  Metrics metrics;
  ModelMetrics* model = metrics.AddModel("m");
  SchedulerMetrics::Step step;
  step.decode_rows = sequences;
  step.total = absl::Milliseconds(5);
  step.model = absl::Milliseconds(4);

  const double per_step = Nanoseconds(kCalls, [&](int i) {
    for (int s = 0; s < sequences; ++s) model->OnTokenGap(absl::Microseconds(900 + (i + s) % 5000));
    model->OnStep(step);
  });
  std::printf("a step of %d sequences: %.1f us, %.1f ns a token\n", sequences, per_step / 1000,
              per_step / sequences);

  // What it would be with the library's histogram, locked for each token.
  prometheus::Registry registry;
  const auto edges = reprise::service::buckets::TokenGap();
  auto& direct = prometheus::BuildHistogram().Name("direct").Register(registry).Add({}, edges);
  const double locked = Nanoseconds(kCalls, [&](int i) {
    for (int s = 0; s < sequences; ++s) direct.Observe(0.0009 + 1e-6 * ((i + s) % 5000));
  });
  std::printf("the same, observed one by one: %.1f us, %.1f ns a token\n", locked / 1000,
              locked / sequences);

  reprise::scheduler::Timeline timeline;
  SchedulerMetrics::Finish finish;
  finish.started = true;
  finish.generated_tokens = 1;
  finish.timeline = &timeline;
  std::printf("a request's end: %.0f ns\n", Nanoseconds(kCalls, [&](int) {
                model->OnFinish(finish);
                model->OnPrepared(absl::Milliseconds(1));
                model->OnCallEnd(absl::Seconds(1), 100);
              }));
  size_t bytes = 0;
  const double scrape = Nanoseconds(20, [&](int) { bytes = metrics.Text().size(); });
  std::printf("a scrape: %.2f ms, %zu bytes\n", scrape / 1e6, bytes);
  return 0;
}
