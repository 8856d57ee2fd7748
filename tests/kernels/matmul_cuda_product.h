// What the tests of MatMul on CUDA run: one matrix and many rows, by every plan.
#ifndef REPRISE_TESTS_KERNELS_MATMUL_CUDA_PRODUCT_H_
#define REPRISE_TESTS_KERNELS_MATMUL_CUDA_PRODUCT_H_

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/matmul_plan.h"
#include "kernels/device_queue.h"
#include "kernels/elementwise.h"
#include "kernels/matmul.h"
#include "tests/kernels/mirror.h"
#include "tests/kernels/test_util.h"

namespace reprise::kernels {

using cuda::MatMulPlan;

struct Shape {
  std::string name;
  int n = 0, k = 0, blocks = 1, x_blocks = 1;
  bool gated = false, bias = false;
  int x_extra = 0;   // x_stride beyond the inputs
  int x_offset = 0;  // elements by which x is off its alignment
  bool e4m3 = false;
  int outputs() const { return blocks * n / (gated ? 2 : 1); }
  int inputs() const { return x_blocks * k; }
};

inline absl::Status MatMulBy(const MatMulParams& params, const MatMulPlan& plan,
                             const Context& context) {
  return plan.exists() ? cuda::MatMulByPlan(params, plan, *context.queue) : MatMul(params, context);
}

// Pseudorandom numbers in about [-1, 1).
inline BF16 NextBf16(uint64_t& state) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  const float value = static_cast<float>(static_cast<int64_t>(state) >> 40) / 8388608.0f;
  return RoundToBf16(value);
}

// One matrix and many rows of x on the device. Rows are the same numbers in every product.
class Product {
 public:
  Product(const Shape& shape, int rows, DeviceQueue* queue)
      : shape_(shape), context_{Device::kCuda, nullptr, queue} {
    uint64_t state = 88172645463325252u;
    std::vector<BF16> weights(size_t(shape.blocks) * shape.n * shape.k);
    for (BF16& value : weights) value = NextBf16(state);
    PackedMatrix::Source source;
    source.dtype = DType::kBF16;
    source.blocks = shape.blocks;
    source.n = shape.n;
    source.k = shape.k;
    source.data = weights.data();
    source.x_blocks = shape.x_blocks;
    source.gated = shape.gated;
    source.e4m3 = shape.e4m3;
    auto packed = PackedMatrix::Pack(source, context_);
    status_.Update(packed.status());
    if (packed.ok()) packed_ = *std::move(packed);
    stride_ = shape.inputs() + shape.x_extra;
    std::vector<BF16> x(size_t(rows) * stride_ + shape.x_offset);
    for (BF16& value : x) value = NextBf16(state);
    Upload(x_, x.data(), x.size() * sizeof(BF16));
    std::vector<float> bias = PseudoVector(9, size_t(shape.blocks) * shape.n);
    Upload(bias_, bias.data(), bias.size() * sizeof(float));
  }

  MatMulParams Params(int first, int rows) const {
    MatMulParams p;
    p.num_rows = rows;
    p.x_stride = stride_;
    p.out_stride = shape_.outputs() + 3;
    p.x_bf16 = x_.as<BF16>() + shape_.x_offset + int64_t{first} * stride_;
    p.weight = &packed_;
    p.bias = shape_.bias ? bias_.as<float>() : nullptr;
    return p;
  }
  cuda::MatMulProblem Problem(int rows, float softcap = 0.0f) const {
    MatMulParams params = Params(0, rows);
    params.softcap = softcap;
    return cuda::ProblemOf(params, *context_.queue);
  }

  // Whether rows of x are aligned as plans want it.
  bool aligned() const {
    return shape_.x_offset == 0 && stride_ % 8 == 0 && (shape_.x_blocks == 1 || shape_.k % 8 == 0);
  }

  // Rows [first, first + rows) at once by `plan`: [rows, outputs].
  std::vector<float> Run(int first, int rows, const MatMulPlan& plan = {}) {
    Prepare(rows);
    MatMulParams p = Params(first, rows);
    p.out = out_.as<float>();
    status_.Update(MatMulBy(p, plan, context_));
    return Results(rows);
  }
  // The first rows, with a softcap within the product or after it.
  std::vector<float> RunCapped(int rows, float cap, const MatMulPlan* plan) {
    Prepare(rows);
    MatMulParams p = Params(0, rows);
    p.out = out_.as<float>();
    if (plan != nullptr) {
      p.softcap = cap;
      status_.Update(MatMulBy(p, *plan, context_));
    } else {
      status_.Update(MatMul(p, context_));
      SoftcapParams after;
      after.num_rows = rows;
      after.dim = static_cast<int>(p.out_stride);
      after.cap = cap;
      after.x = p.out;
      status_.Update(Softcap(after, context_));
    }
    return Results(rows);
  }
  // The same with a product per row.
  std::vector<float> RunAlone(int rows) {
    Prepare(rows);
    for (int row = 0; row < rows; ++row) {
      MatMulParams p = Params(row, 1);
      p.out = out_.as<float>() + row * p.out_stride;
      status_.Update(MatMul(p, context_));
    }
    return Results(rows);
  }
  std::vector<float> RunRounded(int first, int rows, const MatMulPlan& plan) {
    MatMulParams p = Params(first, rows);
    std::vector<BF16> out(size_t(rows) * p.out_stride, RoundToBf16(1e30f)), dense;
    Upload(out_, out.data(), out.size() * sizeof(BF16));
    p.out_bf16 = out_.as<BF16>();
    status_.Update(MatMulBy(p, plan, context_));
    status_.Update(context_.queue->Download(out.data(), out_.data(), out.size() * sizeof(BF16)));
    status_.Update(context_.queue->Synchronize());
    std::vector<float> values;
    for (int row = 0; row < rows; ++row) {
      for (int j = 0; j < shape_.outputs(); ++j)
        values.push_back(Widen(out[row * p.out_stride + j]));
    }
    return values;
  }

  void SetRow(int row, float value) {
    const std::vector<BF16> values(shape_.inputs(), RoundToBf16(value));
    status_.Update(context_.queue->Upload(x_.as<BF16>() + shape_.x_offset + int64_t{row} * stride_,
                                          values.data(), values.size() * sizeof(BF16)));
    status_.Update(context_.queue->Synchronize());
  }
  const absl::Status& status() const { return status_; }
  const Context& context() const { return context_; }
  const Shape& shape() const { return shape_; }

 private:
  void Upload(Buffer& buffer, const void* data, size_t bytes) {
    auto made = Buffer::Allocate(Device::kCuda, bytes);
    status_.Update(made.status());
    if (!made.ok()) return;
    buffer = *std::move(made);
    status_.Update(context_.queue->Upload(buffer.data(), data, bytes));
    status_.Update(context_.queue->Synchronize());
  }
  void Prepare(int rows) {
    const std::vector<float> poison(size_t(rows) * (shape_.outputs() + 3), kNaN);
    Upload(out_, poison.data(), poison.size() * sizeof(float));
  }
  std::vector<float> Results(int rows) {
    const int stride = shape_.outputs() + 3;
    std::vector<float> out(size_t(rows) * stride), dense;
    status_.Update(context_.queue->Download(out.data(), out_.data(), out.size() * sizeof(float)));
    status_.Update(context_.queue->Synchronize());
    for (int row = 0; row < rows; ++row) {
      const auto begin = out.begin() + size_t(row) * stride;
      dense.insert(dense.end(), begin, begin + shape_.outputs());
      for (int i = shape_.outputs(); i < stride; ++i) EXPECT_TRUE(std::isnan(begin[i]));
    }
    return dense;
  }

  Shape shape_;
  Context context_;
  int64_t stride_ = 0;
  absl::Status status_;
  PackedMatrix packed_;
  Buffer x_, bias_, out_;
};

// Every way to run a product, with a name; also as on a device of 7 multiprocessors. One that does
// not exist stands for MatMul's own choice.
inline std::vector<std::pair<std::string, MatMulPlan>> AllPlans(cuda::MatMulProblem problem,
                                                                bool aligned = true) {
  std::vector<std::pair<std::string, MatMulPlan>> plans = {{"as chosen", MatMulPlan{}}};
  if (!aligned) return plans;
  for (const int multiprocessors : {problem.multiprocessors, 7}) {
    problem.multiprocessors = multiprocessors;
    for (const cuda::MatMulShape& shape : cuda::MatMulShapes(problem.e4m3)) {
      MatMulPlan plan = cuda::PlanShape(problem, shape);
      if (!plan.exists()) continue;
      plan.next_start = static_cast<cuda::NextStart>(plans.size() % 2);
      plans.push_back({std::to_string(shape.row_tile) + " x " + std::to_string(shape.output_tile) +
                           " x " + std::to_string(shape.cluster) + (shape.split ? " split" : "") +
                           (multiprocessors == 7 ? ", small grid" : ""),
                       plan});
    }
  }
  return plans;
}

class MatMulCuda : public ::testing::Test {
 protected:
  void SetUp() override {
    queue_ = TestQueue();
    if (queue_ == nullptr) GTEST_SKIP() << "no CUDA device";
  }
  void ExpectCountersZero() {
    std::vector<uint32_t> counters(DeviceQueue::kCounters, 1);
    ASSERT_TRUE(queue_->Download(counters.data(), queue_->counters(), counters.size() * 4).ok());
    ASSERT_TRUE(queue_->Synchronize().ok());
    EXPECT_EQ(counters, std::vector<uint32_t>(DeviceQueue::kCounters, 0));
  }
  DeviceQueue* queue_ = nullptr;
};

}  // namespace reprise::kernels

#endif  // REPRISE_TESTS_KERNELS_MATMUL_CUDA_PRODUCT_H_
