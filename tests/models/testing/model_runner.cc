#include "tests/models/testing/model_runner.h"

#include <cstdlib>
#include <cstring>
#include <iostream>

#include "absl/strings/str_cat.h"

namespace reprise::models::testing {
namespace {

void Check(const absl::Status& status) {
  if (status.ok()) return;
  std::cerr << status << std::endl;
  std::abort();
}

template <typename T>
T Value(absl::StatusOr<T> value) {
  Check(value.status());
  return *std::move(value);
}

template <typename T>
std::string Difference(const std::vector<T>& a, const std::vector<T>& b) {
  if (a.size() != b.size()) return absl::StrCat("sizes ", a.size(), " and ", b.size());
  size_t count = 0;
  size_t first = 0;
  for (size_t i = a.size(); i-- > 0;) {
    if (std::memcmp(&a[i], &b[i], sizeof(T)) != 0) {
      ++count;
      first = i;
    }
  }
  if (count == 0) return "";
  return absl::StrCat(count, " of ", a.size(), " differ, first [", first, "]: ", +a[first], " and ",
                      +b[first]);
}

}  // namespace

bool HasCuda() { return kernels::QueryCudaDevice().ok(); }

ModelRunner::ModelRunner(const nlohmann::json& config, int num_slots, int threads, uint64_t seed,
                         const std::string& dtype, kernels::Device device, WeightFormat format)
    : pool_(Value(kernels::ThreadPool::Create(threads))) {
  WriteCheckpoint(folder_, config, RandomTensors(config, seed, dtype));
  LoadOptions options;
  options.context.device = device;
  options.context.pool = pool_.get();
  options.weight_format = format;
  if (device == kernels::Device::kCuda) {
    queue_ = Value(kernels::DeviceQueue::Create());
    options.context.queue = queue_.get();
  }
  loaded_ = Value(LoadModel(folder_.path(), options));
  slots_ = Value(StateSlots::Create(loaded_.model->state_layout(), num_slots, options.context));
}

SlotHandle ModelRunner::Acquire() { return Value(slots_->Acquire()); }

Logits ModelRunner::Step(const std::vector<Piece>& pieces) {
  RaggedBatch batch;
  for (const Piece& piece : pieces) {
    batch.tokens.insert(batch.tokens.end(), piece.tokens.begin(), piece.tokens.end());
    batch.seq_offsets.push_back(batch.num_rows());
    batch.slots.push_back(piece.slot);
    batch.start_positions.push_back(piece.position);
  }
  for (int row = 0; row < batch.num_rows(); ++row) batch.logit_rows.push_back(row);
  Logits logits(batch.logit_rows.size() * vocab());
  Check(loaded_.model->Forward(batch, *slots_, absl::MakeSpan(logits)));
  return logits;
}

Logits ModelRunner::Feed(int slot, int64_t position, const std::vector<int32_t>& tokens,
                         const std::vector<int>& chunks) {
  Logits logits;
  int64_t at = 0;
  for (const int chunk : chunks) {
    const Logits part = Step({{slot, position + at, Slice(tokens, at, at + chunk)}});
    logits.insert(logits.end(), part.begin(), part.end());
    at += chunk;
  }
  return logits;
}

Image ModelRunner::Export(int slot) {
  Image image(slots_->layout().bytes());
  Check(slots_->Export(slot, absl::MakeSpan(image)));
  return image;
}

void ModelRunner::Import(int slot, const Image& image) { Check(slots_->Import(slot, image)); }

std::string BitDifference(const Logits& a, const Logits& b) { return Difference(a, b); }
std::string BitDifference(const Image& a, const Image& b) { return Difference(a, b); }

}  // namespace reprise::models::testing
