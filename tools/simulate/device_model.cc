#include "tools/simulate/device_model.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"

namespace reprise::simulate {
namespace {

struct Field {
  const char* name;
  double DeviceModel::*value;
  bool divides = false;
};

constexpr Field kFields[] = {
    {"weight_bytes", &DeviceModel::weight_bytes},
    {"sequence_bytes", &DeviceModel::sequence_bytes},
    {"context_bytes", &DeviceModel::context_bytes},
    {"context_tokens", &DeviceModel::context_tokens},
    {"bytes_per_second", &DeviceModel::bytes_per_second, true},
    {"row_flops", &DeviceModel::row_flops},
    {"logit_row_flops", &DeviceModel::logit_row_flops},
    {"context_flops", &DeviceModel::context_flops},
    {"flops_per_second", &DeviceModel::flops_per_second, true},
    {"overlap", &DeviceModel::overlap},
    {"step_overhead", &DeviceModel::step_overhead},
    {"sequence_overhead", &DeviceModel::sequence_overhead},
    {"row_overhead", &DeviceModel::row_overhead},
    {"state_bytes", &DeviceModel::state_bytes},
    {"import_bytes_per_second", &DeviceModel::import_bytes_per_second, true},
    {"export_bytes_per_second", &DeviceModel::export_bytes_per_second, true},
    {"copy_overhead", &DeviceModel::copy_overhead},
    {"host_tier_bytes", &DeviceModel::host_tier_bytes},
    {"store_latency", &DeviceModel::store_latency},
    {"store_bytes_per_second", &DeviceModel::store_bytes_per_second, true},
};

// RecurrentGemma-2B's shape in bf16 on one H100. Bytes and flops follow from the shape; the rates
// are the card's measured ceilings (3.0 TB/s, 770 TFLOP/s, 36 and 41 GB/s to and from the device)
// times what a good implementation reaches of them, which is an assumption: 80% and 60%.
DeviceModel H100RecurrentGemma2B() {
  DeviceModel d;
  d.name = "h100-2b";
  d.weight_bytes = 5.36e9;  // the tied table is read for the logits
  // 18 recurrent layers: 3 + 3 rows of 2560 floats, read, and partly written.
  d.sequence_bytes = 18 * 6 * 2560 * 4 * 1.5;
  d.context_tokens = 2048;
  d.context_bytes = 8 * 2 * 256 * 2;  // 8 attention layers, one head of keys and values
  d.bytes_per_second = 0.8 * 3.0e12;
  d.row_flops = 2 * 2.03e9;
  d.logit_row_flops = 2.0 * 256000 * 2560;
  d.context_flops = 8 * 2.0 * 2 * 10 * 256;  // scores and sums of 10 heads
  d.flops_per_second = 0.6 * 770e12;
  d.step_overhead = 150e-6;
  d.sequence_overhead = 1e-6;
  d.state_bytes = 18.4e6;
  d.import_bytes_per_second = 36e9;
  d.export_bytes_per_second = 41e9;
  d.copy_overhead = 20e-6;
  d.host_tier_bytes = 64e9;
  d.store_latency = 1e-3;
  d.store_bytes_per_second = 2.5e9;  // a 25 Gbit/s link, most of it
  return d;
}

// The same shape as our engine runs it on one H100 (bench/RESULTS.md, commit a150e67): rates and
// overheads are fitted to its decode steps at batch 1 to 256 and its prefills of 8192 and 131,072
// tokens; exports and imports go to and from pageable memory; the store is Redis on the same host.
DeviceModel H100Measured() {
  DeviceModel d = H100RecurrentGemma2B();
  d.name = "h100-2b-measured";
  d.bytes_per_second = 2.033e12;
  d.flops_per_second = 450e12;
  d.overlap = 0.736;
  d.step_overhead = 293e-6;
  d.sequence_overhead = 5.15e-6;
  d.import_bytes_per_second = 9.8e9;
  d.export_bytes_per_second = 8.44e9;
  d.store_bytes_per_second = 1.08e9;
  return d;
}

// The bundled model with two threads on two cores of an AMD EPYC (Zen 5). Bytes and flops follow
// from the shape, the bandwidth is the measured one; the other rates and overheads are fitted to
// the engine's figures in bench/RESULTS.md (prefill, decode at batch 1, 8 and 32).
DeviceModel CpuTale20M() {
  DeviceModel d;
  d.name = "cpu-tale-20m";
  d.weight_bytes = 38.4e6;
  d.context_tokens = 512;
  d.context_flops = 3 * 2.0 * 2 * 6 * 64;  // 3 attention layers, scores and sums of 6 heads
  d.bytes_per_second = 73.6e9;
  d.row_flops = 2 * 15.95e6;
  d.logit_row_flops = 2.0 * 8192 * 384;
  d.flops_per_second = 376e9;
  d.overlap = 0;  // a core that waits for memory does not multiply
  d.step_overhead = 18e-6;
  d.sequence_overhead = 11e-6;
  d.state_bytes = 940'032;
  d.import_bytes_per_second = 67e9;
  d.export_bytes_per_second = 67e9;
  d.host_tier_bytes = 1e9;
  d.store_latency = 100e-6;
  d.store_bytes_per_second = 10e9;
  return d;
}

}  // namespace

void StepShape::Add(const DeviceModel& device, int64_t position, int64_t count, bool with_logits) {
  const double window = device.context_tokens;
  const double first = static_cast<double>(position), n = static_cast<double>(count);
  rows += n;
  sequences += 1;
  logit_rows += with_logits ? 1 : 0;
  context += std::min(first + n, window);
  // Rows before the window is full see all there is, the others the window.
  const double growing = std::clamp(window - first, 0.0, n);
  row_context += growing * first + growing * (growing + 1) / 2 + (n - growing) * window;
}

double StepSeconds(const DeviceModel& d, const StepShape& s) {
  const double read =
      (d.weight_bytes + s.sequences * d.sequence_bytes + s.context * d.context_bytes) /
      d.bytes_per_second;
  const double compute =
      (s.rows * d.row_flops + s.logit_rows * d.logit_row_flops + s.row_context * d.context_flops) /
      d.flops_per_second;
  return std::max(read, compute) + (1 - d.overlap) * std::min(read, compute) + d.step_overhead +
         s.sequences * d.sequence_overhead + s.rows * d.row_overhead;
}

double ImportSeconds(const DeviceModel& d) {
  return d.copy_overhead + d.state_bytes / d.import_bytes_per_second;
}
double ExportSeconds(const DeviceModel& d) {
  return d.copy_overhead + d.state_bytes / d.export_bytes_per_second;
}
double StoreSeconds(const DeviceModel& d) {
  return d.store_latency + d.state_bytes / d.store_bytes_per_second;
}

double AlonePrefillSeconds(const DeviceModel& device, int64_t position, int64_t rows,
                           int step_tokens) {
  double seconds = 0;
  const auto step = [&](int64_t at, int64_t count, bool last) {
    StepShape shape;
    shape.Add(device, at, count, last);
    return StepSeconds(device, shape);
  };
  // Once the window is full, all whole steps cost the same.
  while (rows > step_tokens && static_cast<double>(position) < device.context_tokens) {
    seconds += step(position, step_tokens, false);
    position += step_tokens;
    rows -= step_tokens;
  }
  if (rows > step_tokens) {
    const int64_t whole = (rows - 1) / step_tokens;
    seconds += static_cast<double>(whole) * step(position, step_tokens, false);
    position += whole * step_tokens;
    rows -= whole * step_tokens;
  }
  return seconds + step(position, rows, true);
}

double AloneDecodeSeconds(const DeviceModel& device, int64_t position, int64_t tokens) {
  StepShape first, last;
  first.Add(device, position, 1, true);
  last.Add(device, position + tokens, 1, true);
  return static_cast<double>(tokens) * (StepSeconds(device, first) + StepSeconds(device, last)) / 2;
}

absl::StatusOr<DeviceModel> ParseDeviceModel(const std::string& json, const std::string& name) {
  nlohmann::json parsed;
  try {
    parsed = nlohmann::json::parse(json);
  } catch (const nlohmann::json::parse_error& error) {
    const size_t at = std::min(error.byte, json.size());
    const std::string before = json.substr(0, at > 0 ? at - 1 : 0);
    const size_t line_begin = before.rfind('\n');
    return absl::InvalidArgumentError(
        absl::StrCat(name, ":", 1 + std::count(before.begin(), before.end(), '\n'), ":",
                     before.size() - (line_begin == std::string::npos ? 0 : line_begin + 1) + 1,
                     ": not valid JSON"));
  } catch (const nlohmann::json::exception&) {  // a number that no double holds
    return absl::InvalidArgumentError(absl::StrCat(name, ": a number is out of range"));
  }
  if (!parsed.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(name, ":1:1: expected an object"));
  }
  DeviceModel device;
  for (const auto& [key, value] : parsed.items()) {
    if (key == "name") {
      if (!value.is_string() || value.get<std::string>().size() > 128) {
        return absl::InvalidArgumentError(absl::StrCat(name, ": name: expected a short string"));
      }
      device.name = value.get<std::string>();
      continue;
    }
    const auto field = std::find_if(std::begin(kFields), std::end(kFields),
                                    [&](const Field& f) { return key == f.name; });
    if (field == std::end(kFields)) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": unknown field \"", key.substr(0, 64), "\""));
    }
    const double number = value.is_number() ? value.get<double>() : -1;
    if (!std::isfinite(number) || number < 0 || number > 1e18 || (field->divides && number == 0)) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": ", key, ": expected a number ",
                                                     field->divides ? "above 0" : "from 0",
                                                     " to 1e18"));
    }
    device.*(field->value) = number;
  }
  if (device.overlap > 1) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": overlap: expected 0 to 1"));
  }
  // Time has to pass, or a simulation never ends.
  StepShape one;
  one.Add(device, 0, 1, true);
  if (StepSeconds(device, one) < 1e-9) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": a step takes no time"));
  }
  return device;
}

std::string DeviceModelJson(const DeviceModel& device) {
  nlohmann::ordered_json json;
  json["name"] = device.name;
  for (const Field& field : kFields) json[field.name] = device.*(field.value);
  return json.dump(2, ' ', true, nlohmann::json::error_handler_t::replace);
}

std::vector<std::string> DevicePresets() { return {"h100-2b", "h100-2b-measured", "cpu-tale-20m"}; }

absl::StatusOr<DeviceModel> DevicePreset(const std::string& name) {
  if (name == "h100-2b") return H100RecurrentGemma2B();
  if (name == "h100-2b-measured") return H100Measured();
  if (name == "cpu-tale-20m") return CpuTale20M();
  return absl::NotFoundError(
      absl::StrCat("device \"", name, "\": there are ", absl::StrJoin(DevicePresets(), ", ")));
}

}  // namespace reprise::simulate
