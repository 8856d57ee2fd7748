#include "tests/models/testing/bundled_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace reprise::models::testing {

BundledModel::BundledModel(kernels::Device device, WeightFormat format)
    : pool_(kernels::ThreadPool::Create(2).value()) {
  context_.device = device;
  context_.pool = pool_.get();
  if (device == kernels::Device::kCuda) {
    queue_ = kernels::DeviceQueue::Create().value();
    context_.queue = queue_.get();
  }
  LoadOptions options;
  options.context = context_;
  options.weight_format = format;
  loaded_ = LoadModel("models/bundled/tale-20m", options).value();
  slots_ = StateSlots::Create(loaded_.model->state_layout(), 1, context_).value();
  slot_ = slots_->Acquire().value();
}

Logits BundledModel::Feed(const std::vector<int32_t>& tokens, bool all_rows) {
  RaggedBatch batch;
  batch.tokens = tokens;
  batch.seq_offsets = {0, static_cast<int32_t>(tokens.size())};
  batch.slots = {slot_.slot()};
  batch.start_positions = {position_};
  for (int row = all_rows ? 0 : batch.num_rows() - 1; row < batch.num_rows(); ++row) {
    batch.logit_rows.push_back(row);
  }
  Logits logits(batch.logit_rows.size() * loaded_.model->info().vocab_size);
  const absl::Status status = loaded_.model->Forward(batch, *slots_, absl::MakeSpan(logits));
  EXPECT_TRUE(status.ok()) << status;
  position_ += batch.num_rows();
  return logits;
}

double RelativeError(const Logits& actual, const Logits& expected) {
  double error = 0.0, size = 0.0;
  for (size_t i = 0; i < actual.size(); ++i) {
    error += std::pow(double{actual[i]} - expected[i], 2);
    size += std::pow(double{expected[i]}, 2);
  }
  return std::sqrt(error / size);
}

int32_t Best(const float* logits, int count) {
  return static_cast<int32_t>(std::max_element(logits, logits + count) - logits);
}

}  // namespace reprise::models::testing
