#include "models/step_inputs.h"

#include <algorithm>
#include <cstring>

#include "base/status_macros.h"

namespace reprise::models {
namespace {

// Positions come first, so that they are aligned.
size_t Bytes(size_t rows, size_t seqs, size_t logit_rows) {
  return sizeof(int64_t) * seqs + sizeof(int32_t) * (seqs + (seqs + 1) + 2 * rows + logit_rows);
}

}  // namespace

size_t StepInputs::DeviceBytes(int max_rows, kernels::Device device) {
  if (device == kernels::Device::kCpu) return 0;
  // Sequences without rows may come on top of the rows; twice as many fit.
  const size_t most = static_cast<size_t>(max_rows);
  return Bytes(most, 2 * most, most);
}

absl::StatusOr<StepInputs> StepInputs::Create(int max_rows, const kernels::Context& context) {
  StepInputs inputs;
  inputs.context_ = context;
  if (context.device == kernels::Device::kCpu) return inputs;
  const size_t bytes = DeviceBytes(max_rows, context.device);
  ASSIGN_OR_RETURN(inputs.host_, kernels::PinnedBuffer::Allocate(bytes));
  ASSIGN_OR_RETURN(inputs.device_, kernels::Buffer::Allocate(context.device, bytes));
  return inputs;
}

absl::StatusOr<StepView> StepInputs::Stage(const RaggedBatch& batch) {
  StepView view;
  view.rows = batch.Rows();
  view.num_logit_rows = static_cast<int32_t>(batch.logit_rows.size());
  view.tokens = batch.tokens.data();
  view.logit_rows = batch.logit_rows.data();
  if (context_.device == kernels::Device::kCpu) return view;

  const size_t bytes = Bytes(batch.tokens.size(), batch.slots.size(), batch.logit_rows.size());
  if (bytes > host_.size()) {
    return absl::InvalidArgumentError("batch: more sequences than the step's buffers hold");
  }
  if (in_flight_) RETURN_IF_ERROR(context_.queue->WaitOnHost(copied_));
  size_t at = 0;
  const auto put = [&](const auto& values) {
    using T = typename std::decay_t<decltype(values)>::value_type;
    const size_t size = values.size() * sizeof(T);
    if (size != 0) std::memcpy(host_.as<uint8_t>() + at, values.data(), size);
    const T* device = reinterpret_cast<const T*>(device_.as<uint8_t>() + at);
    at += size;
    return device;
  };
  view.rows.start_positions = put(batch.start_positions);
  view.rows.slots = put(batch.slots);
  view.rows.seq_offsets = put(batch.seq_offsets);
  view.tokens = put(batch.tokens);
  int32_t* row_seqs = reinterpret_cast<int32_t*>(host_.as<uint8_t>() + at);
  view.rows.row_seqs = reinterpret_cast<const int32_t*>(device_.as<uint8_t>() + at);
  for (int s = 0; s < batch.num_seqs(); ++s) {
    const int32_t count = batch.seq_offsets[s + 1] - batch.seq_offsets[s];
    row_seqs = std::fill_n(row_seqs, count, s);
    view.rows.max_seq_rows = std::max(view.rows.max_seq_rows, count);
  }
  at += batch.tokens.size() * sizeof(int32_t);
  view.logit_rows = put(batch.logit_rows);

  RETURN_IF_ERROR(context_.queue->Upload(device_.data(), host_.as<uint8_t>(), at));
  RETURN_IF_ERROR(context_.queue->Record(copied_));
  in_flight_ = true;
  return view;
}

}  // namespace reprise::models
