// Random traffic: see trace.h. A failure names its seed; REPRISE_TRACE_SEED runs that one alone.
#include "tests/scheduler/trace.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "base/fault_point.h"
#include "kernels/device_health.h"
#include "tests/models/testing/model_runner.h"
#include "tests/scheduler/scheduler_fixture.h"

namespace reprise::scheduler {
namespace {

using models::testing::ModelRunner;
using models::testing::SmallConfig;

std::vector<uint32_t> Seeds(int count) {
  if (const char* seed = std::getenv("REPRISE_TRACE_SEED"); seed != nullptr) {
    return {static_cast<uint32_t>(std::strtoul(seed, nullptr, 10))};
  }
  std::vector<uint32_t> seeds(count);
  for (int i = 0; i < count; ++i) seeds[i] = static_cast<uint32_t>(i + 1);
  return seeds;
}

TEST(TraceTest, ThePuppetShowsEveryTokenThatIsLostRepeatedOrForeign) {
  PuppetModel::Options puppet;
  puppet.state_words = 512;  // as large as some prompts, so that a cache has to choose
  PuppetModel model{puppet};
  int64_t parks = 0, checkpoints = 0, cancelled = 0, expired = 0, shared = 0;
  PrefixCacheStats cache;
  for (uint32_t seed : Seeds(300)) {
    Trace trace(&model, OneThread(), seed, TraceSize{});
    trace.Run();
    if (HasFailure()) return;
    trace.CheckOutputs();
    if (HasFailure()) return;
    parks += trace.stats().parks;
    checkpoints += trace.stats().checkpoints;
    cancelled += trace.stats().cancelled;
    expired += trace.stats().expired;
    shared += trace.stats().shared_tokens;
    cache += trace.cache_stats();
  }
  // The traces do reach what they are to test.
  if (Seeds(300).size() == 1) return;
  EXPECT_GT(parks, 10000);
  EXPECT_GT(checkpoints, 1000);
  EXPECT_GT(cancelled, 100);
  EXPECT_GT(expired, 100);
  EXPECT_GT(shared, 10000);
  EXPECT_GT(cache.hits, 400);
  EXPECT_GT(cache.evictions, 1000);
  EXPECT_GT(cache.expirations, 100);
  EXPECT_GT(cache.spill_hits, 100);
}

#ifdef REPRISE_FAULT_POINTS
TEST(TraceTest, EachRequestEndsOnceWhereverTheDeviceFails) {
  PuppetModel model{PuppetModel::Options()};
  constexpr int kPoints = static_cast<int>(std::size(kernels::kDeviceFaultPoints));
  std::vector<int> failures(kPoints);
  int64_t ended = 0, finished = 0;
  const std::vector<uint32_t> seeds = Seeds(50 * kPoints);
  for (uint32_t seed : seeds) {
    const int point = static_cast<int>(seed) % kPoints;
    // Slots for a copy in place are free in few traces, and there not often.
    const bool rare = absl::string_view(kernels::kDeviceFaultPoints[point]) == "device.copy";
    const int time = rare ? 1 : 1 + static_cast<int>(seed / kPoints) * (seed % 2 == 0 ? 1 : 4);
    kernels::DeviceHealth health;
    kernels::Context context = OneThread();
    context.health = &health;
    ChooseFaultPoint(absl::StrCat(kernels::kDeviceFaultPoints[point], ":", time));
    Trace trace(&model, context, seed, TraceSize{});
    trace.Run();
    ChooseFaultPoint("");
    if (HasFailure()) return;
    trace.CheckOutputs();
    if (HasFailure()) return;
    failures[point] += health.failed();
    ended += trace.failed_with_device();
    finished += trace.stats().finished;
  }
  if (seeds.size() == 1) return;
  for (int point = 0; point < kPoints; ++point) {
    EXPECT_GT(failures[point], 5) << kernels::kDeviceFaultPoints[point];
  }
  EXPECT_GT(ended, 1000);
  EXPECT_GT(finished, 1000);
}
#endif

class RealModelTraceTest : public ::testing::TestWithParam<kernels::Device> {};

TEST_P(RealModelTraceTest, EachRequestGetsTheBitsThatItGetsAlone) {
  const bool cuda = GetParam() == kernels::Device::kCuda;
  if (cuda && !models::testing::HasCuda()) GTEST_SKIP() << "no CUDA device";
  nlohmann::json changes = nlohmann::json::object();
  if (cuda) changes = {{"hidden_size", 48}, {"lru_width", 48}, {"intermediate_size", 112}};
  ModelRunner runner(SmallConfig(changes), 1, 2, 1, "F32", GetParam());
  TraceSize size;
  size.requests = 24;
  int64_t parks = 0, checkpoints = 0, shared = 0;
  PrefixCacheStats cache;
  for (uint32_t seed : Seeds(60)) {
    Trace trace(&runner.model(), runner.model().context(), seed, size);
    trace.Run();
    if (HasFailure()) return;
    trace.CheckOutputs();
    if (HasFailure()) return;
    parks += trace.stats().parks;
    checkpoints += trace.stats().checkpoints;
    shared += trace.stats().shared_tokens;
    cache += trace.cache_stats();
  }
  if (Seeds(60).size() > 1) {
    EXPECT_GT(parks, 100);
    EXPECT_GT(checkpoints, 100);
    EXPECT_GT(shared, 1000);
    EXPECT_GT(cache.hits, 40);
    EXPECT_GT(cache.evictions, 100);
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, RealModelTraceTest,
                         ::testing::Values(kernels::Device::kCpu, kernels::Device::kCuda),
                         [](const ::testing::TestParamInfo<kernels::Device>& device) {
                           return device.param == kernels::Device::kCpu ? "cpu" : "cuda";
                         });

}  // namespace
}  // namespace reprise::scheduler
