#include "tools/simulate/device_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "tools/simulate/calibrate.h"

namespace reprise::simulate {
namespace {

using testing::HasSubstr;

TEST(DeviceModel, StepsByHand) {
  DeviceModel d;
  d.weight_bytes = 100;
  d.sequence_bytes = 10;
  d.context_bytes = 1;
  d.context_tokens = 4;
  d.bytes_per_second = 10;
  d.row_flops = 6;
  d.logit_row_flops = 2;
  d.context_flops = 1;
  d.flops_per_second = 2;
  d.step_overhead = 0.5;
  d.sequence_overhead = 0.25;
  d.row_overhead = 0.125;
  StepShape shape;
  shape.Add(d, 2, 3, true);    // contexts 3, 4, 4
  shape.Add(d, 10, 1, false);  // context 4
  EXPECT_EQ(shape.rows, 4);
  EXPECT_EQ(shape.context, 8);
  EXPECT_EQ(shape.row_context, 15);
  // Reads (100 + 20 + 8) / 10 = 12.8 s, computes (24 + 2 + 15) / 2 = 20.5 s.
  EXPECT_DOUBLE_EQ(StepSeconds(d, shape), 20.5 + 0.5 + 0.5 + 0.5);
  d.overlap = 0.75;
  EXPECT_DOUBLE_EQ(StepSeconds(d, shape), 20.5 + 3.2 + 1.5);
}

TEST(DeviceModel, AloneIsTheSumOfItsSteps) {
  DeviceModel d = *DevicePreset("h100-2b");
  double expected = 0;
  for (int64_t position = 1000, left = 10'000; left > 0; position += 256, left -= 256) {
    StepShape shape;
    shape.Add(d, position, std::min<int64_t>(left, 256), left <= 256);
    expected += StepSeconds(d, shape);
  }
  EXPECT_NEAR(AlonePrefillSeconds(d, 1000, 10'000, 256), expected, 1e-9);
}

// The engine's figures in bench/RESULTS.md, the better of two runs.
TEST(DeviceModel, TheCpuPresetFitsItsMeasurements) {
  const DeviceModel d = *DevicePreset("cpu-tale-20m");
  StepShape prefill;
  prefill.Add(d, 0, 512, true);
  EXPECT_NEAR(StepSeconds(d, prefill) / (512 / 11200.0), 1, 0.02);
  const std::pair<int, double> decode[] = {{1, 1519}, {8, 5061}, {32, 7611}};
  for (const auto& [batch, tokens_per_second] : decode) {
    StepShape shape;
    for (int i = 0; i < batch; ++i) shape.Add(d, 72, 1, true);
    EXPECT_NEAR(StepSeconds(d, shape) / (batch / tokens_per_second), 1, 0.09) << batch;
  }
}

// The engine's figures in bench/RESULTS.md (commit a150e67): windows full, states of 18.4 MB.
TEST(DeviceModel, TheMeasuredH100FitsItsMeasurements) {
  const DeviceModel d = *DevicePreset("h100-2b-measured");
  const std::pair<int, double> decode[] = {{1, 2.98},  {8, 2.99},   {32, 3.41},
                                           {64, 4.16}, {128, 5.03}, {256, 7.21}};
  for (const auto& [batch, milliseconds] : decode) {
    StepShape shape;
    for (int i = 0; i < batch; ++i) shape.Add(d, 4096, 1, true);
    EXPECT_NEAR(StepSeconds(d, shape) * 1e3 / milliseconds, 1, 0.03) << batch;
  }
  EXPECT_NEAR(AlonePrefillSeconds(d, 0, 8192, 8192) * 1e3 / 76.6, 1, 0.03);
  EXPECT_NEAR(AlonePrefillSeconds(d, 0, 131'072, 8192) * 1e3 / 1257, 1, 0.03);
  EXPECT_NEAR(ExportSeconds(d) * 1e3, 2.2, 0.05);
  EXPECT_NEAR(ImportSeconds(d) * 1e3, 1.9, 0.05);
  // Read from Redis, imported, and one decode step.
  StepShape one;
  one.Add(d, 4096, 1, true);
  EXPECT_NEAR((StoreSeconds(d) + ImportSeconds(d) + StepSeconds(d, one)) * 1e3, 23.0, 0.5);
}

TEST(DeviceModel, JsonReadsBack) {
  for (const std::string& name : DevicePresets()) {
    const std::string json = DeviceModelJson(*DevicePreset(name));
    const auto read = ParseDeviceModel(json, "d");
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(DeviceModelJson(*read), json);
  }
  EXPECT_TRUE(absl::IsNotFound(DevicePreset("abacus").status()));
}

TEST(DeviceModel, RefusesWhatIsNotADevice) {
  const std::pair<std::string, std::string> cases[] = {
      {"", "d:1:1: not valid JSON"},
      {"{\n  \"overlap\": ,}", "d:2:14: not valid JSON"},
      {"[]", "d:1:1: expected an object"},
      {"{\"wieght_bytes\": 1}", "d: unknown field \"wieght_bytes\""},
      {"{\"weight_bytes\": -1}", "d: weight_bytes: expected a number from 0"},
      {"{\"weight_bytes\": \"1\"}", "d: weight_bytes: expected a number"},
      {"{\"weight_bytes\": 1e400}", "d: a number is out of range"},
      {"{\"bytes_per_second\": 0}", "d: bytes_per_second: expected a number above 0"},
      {"{\"overlap\": 2, \"step_overhead\": 1}", "d: overlap: expected 0 to 1"},
      {"{\"name\": 5}", "d: name: expected a short string"},
      {"{}", "d: a step takes no time"},
      {std::string(100'000, '['), "not valid JSON"},
  };
  for (const auto& [json, message] : cases) {
    const absl::Status status = ParseDeviceModel(json, "d").status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << json.substr(0, 50);
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
}

TEST(Calibrate, FitFindsTheCoefficients) {
  const double truth[] = {3e-4, 2e-5, 9e-5, 0, 1e-8};
  DeviceModel window;
  window.context_tokens = 512;
  std::vector<MeasuredStep> steps;
  for (const int sequences : {1, 2, 5, 20}) {
    for (const int rows : {1, 7, 100}) {
      for (const int position : {0, 50, 900}) {
        MeasuredStep step;
        for (int i = 0; i < sequences; ++i) step.shape.Add(window, position, rows, i % 2 == 0);
        const StepShape& s = step.shape;
        step.seconds = truth[0] + truth[1] * s.sequences + truth[2] * s.rows +
                       truth[3] * s.logit_rows + truth[4] * s.row_context;
        steps.push_back(step);
      }
    }
  }
  const std::vector<double> fitted = FitSteps(steps);
  for (int i = 0; i < 5; ++i) EXPECT_NEAR(fitted[i], truth[i], 1e-3 * truth[i] + 1e-9) << i;
}

}  // namespace
}  // namespace reprise::simulate
