#include "tools/simulate/calibrate.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/sampling.h"
#include "models/state_slots.h"

namespace reprise::simulate {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kCoefficients = 5;

std::array<double, kCoefficients> Features(const StepShape& s) {
  return {1, s.sequences, s.rows, s.logit_rows, s.row_context};
}

double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// Sequences of which the first `prefilling` feed a chunk and the rest one token.
struct Case {
  int decoding, prefilling, chunk, position;
};

class Bench {
 public:
  Bench(models::HybridModel* model, models::StateSlots* slots) : model_(model), slots_(slots) {}

  absl::StatusOr<double> Time(const Case& c, int repeats, const DeviceModel& device,
                              StepShape* shape) {
    ASSIGN_OR_RETURN(const models::SlotHandle start, slots_->Acquire());
    RETURN_IF_ERROR(Advance(start.slot(), c.position));
    std::vector<double> seconds;
    for (int repeat = 0; repeat < repeats; ++repeat) {
      std::vector<models::SlotHandle> held;
      for (int i = 0; i < c.decoding + c.prefilling; ++i) {
        ASSIGN_OR_RETURN(models::SlotHandle slot, slots_->Acquire());
        held.push_back(std::move(slot));
        RETURN_IF_ERROR(slots_->Copy(start.slot(), held.back().slot()));
      }
      models::RaggedBatch batch;
      *shape = {};
      for (int i = 0; i < c.decoding + c.prefilling; ++i) {
        const int rows = i < c.decoding ? 1 : c.chunk;
        AddRows(batch, held[i].slot(), c.position, rows);
        // A prompt's chunk has no logits but at its end, which is in few of the steps.
        const bool with_logits = i < c.decoding;
        if (with_logits) batch.logit_rows.push_back(batch.num_rows() - 1);
        shape->Add(device, c.position, rows, with_logits);
      }
      std::vector<float> logits(batch.logit_rows.size() * vocab());
      const Clock::time_point begin = Clock::now();
      RETURN_IF_ERROR(model_->Forward(batch, *slots_, absl::MakeSpan(logits)));
      const kernels::SamplingParams greedy;
      for (size_t i = 0; i < batch.logit_rows.size(); ++i) {
        kernels::SampleRequest request;
        request.params = &greedy;
        RETURN_IF_ERROR(kernels::Sample({logits.data() + i * vocab(), vocab()}, request).status());
      }
      seconds.push_back(SecondsSince(begin));
    }
    return Median(seconds);
  }

  // Seconds of an export and of an import.
  absl::StatusOr<std::pair<double, double>> TimeCopies(int repeats) {
    ASSIGN_OR_RETURN(const models::SlotHandle slot, slots_->Acquire());
    std::vector<uint8_t> image(slots_->layout().bytes());
    std::vector<double> exports, imports;
    for (int repeat = 0; repeat < repeats; ++repeat) {
      Clock::time_point begin = Clock::now();
      RETURN_IF_ERROR(slots_->Export(slot.slot(), absl::MakeSpan(image)));
      exports.push_back(SecondsSince(begin));
      begin = Clock::now();
      RETURN_IF_ERROR(slots_->Import(slot.slot(), image));
      imports.push_back(SecondsSince(begin));
    }
    return std::pair(Median(exports), Median(imports));
  }

 private:
  size_t vocab() const { return model_->info().vocab_size; }

  void AddRows(models::RaggedBatch& batch, int slot, int64_t position, int rows) {
    for (int i = 0; i < rows; ++i) {
      batch.tokens.push_back(static_cast<int32_t>((position + i) * 7919 % vocab()));
    }
    batch.seq_offsets.push_back(batch.num_rows());
    batch.slots.push_back(slot);
    batch.start_positions.push_back(position);
  }

  absl::Status Advance(int slot, int tokens) {
    for (int position = 0; position < tokens;) {
      const int rows = std::min(tokens - position, model_->max_rows());
      models::RaggedBatch batch;
      AddRows(batch, slot, position, rows);
      RETURN_IF_ERROR(model_->Forward(batch, *slots_, {}));
      position += rows;
    }
    return absl::OkStatus();
  }

  models::HybridModel* const model_;
  models::StateSlots* const slots_;
};

}  // namespace

std::vector<double> FitSteps(const std::vector<MeasuredStep>& steps) {
  // Coordinate descent on the normal equations; the objective is convex, and each coordinate's
  // minimum on [0, inf) is exact.
  std::array<std::array<double, kCoefficients>, kCoefficients> gram = {};
  std::array<double, kCoefficients> right = {};
  for (const MeasuredStep& step : steps) {
    std::array<double, kCoefficients> x = Features(step.shape);
    for (double& value : x) value /= step.seconds;
    for (int i = 0; i < kCoefficients; ++i) {
      right[i] += x[i];
      for (int j = 0; j < kCoefficients; ++j) gram[i][j] += x[i] * x[j];
    }
  }
  std::vector<double> c(kCoefficients, 0.0);
  for (int sweep = 0; sweep < 200'000; ++sweep) {
    for (int i = 0; i < kCoefficients; ++i) {
      if (gram[i][i] == 0) continue;
      double residual = right[i];
      for (int j = 0; j < kCoefficients; ++j) residual -= gram[i][j] * c[j];
      c[i] = std::max(0.0, c[i] + residual / gram[i][i]);
    }
  }
  return c;
}

absl::StatusOr<Calibration> Calibrate(models::HybridModel* model, const kernels::Context& context,
                                      int repeats) {
  const models::ModelInfo& info = model->info();
  constexpr int kSlots = 65;  // and one that the others are copied from
  ASSIGN_OR_RETURN(const std::unique_ptr<models::StateSlots> slots,
                   models::StateSlots::Create(model->state_layout(), kSlots, context));
  Bench bench(model, slots.get());
  Calibration result;
  DeviceModel& device = result.device;
  device.name = info.architecture;
  // What attention looks at: its ring of keys, if it has one.
  for (const models::StateTensor& tensor : model->state_layout().tensors()) {
    if (tensor.role != models::StateRole::kWindowValues) continue;
    device.context_tokens = static_cast<double>(tensor.shape[0]) * kernels::kGridTokens;
  }
  const int most = std::min(model->max_rows(), 512);
  std::vector<Case> cases;
  for (int position : {100, 600}) {
    for (int sequences : {1, 2, 4, 8, 16, 32, 64}) cases.push_back({sequences, 0, 0, position});
  }
  for (int position : {0, 600}) {
    for (int rows : {16, 64, 128, 256, 512}) {
      if (rows <= most) cases.push_back({0, 1, rows, position});
    }
  }
  for (int decoding : {4, 16, 32}) {
    for (int rows : {64, 128, most - decoding}) cases.push_back({decoding, 1, rows, 100});
  }
  for (const Case& c : cases) {
    MeasuredStep step;
    step.name = absl::StrCat(c.decoding, " decoding, ", c.prefilling, " x ", c.chunk,
                             " of a prompt, at ", c.position);
    ASSIGN_OR_RETURN(step.seconds, bench.Time(c, repeats, device, &step.shape));
    result.steps.push_back(std::move(step));
  }
  const std::vector<double> c = FitSteps(result.steps);
  // The same sums in the description's terms: reading the weights is what every step does.
  const double table = static_cast<double>(info.vocab_size) * info.hidden_size;
  device.weight_bytes = static_cast<double>(info.weight_bytes);
  device.bytes_per_second = device.weight_bytes / std::max(c[0], 1e-9);
  device.row_flops = 2 * (static_cast<double>(info.num_parameters) - table);
  device.flops_per_second = device.row_flops / std::max(c[2], 1e-12);
  device.logit_row_flops = c[3] * device.flops_per_second;
  device.context_flops = c[4] * device.flops_per_second;
  device.sequence_overhead = c[1];
  device.overlap = 0;
  ASSIGN_OR_RETURN(const auto copies, bench.TimeCopies(repeats));
  device.state_bytes = static_cast<double>(model->state_layout().bytes());
  device.export_bytes_per_second = device.state_bytes / std::max(copies.first, 1e-9);
  device.import_bytes_per_second = device.state_bytes / std::max(copies.second, 1e-9);
  device.host_tier_bytes = 1e9;
  device.store_latency = 200e-6;
  device.store_bytes_per_second = 5e9;
  for (const MeasuredStep& step : result.steps) {
    const double error = std::abs(StepSeconds(device, step.shape) / step.seconds - 1);
    result.mean_error += error / static_cast<double>(result.steps.size());
    result.max_error = std::max(result.max_error, error);
  }
  return result;
}

}  // namespace reprise::simulate
