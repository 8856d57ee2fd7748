// Products on a CUDA device, beside the bandwidth of a copy. Every figure is the time of one
// product within a graph of many with different weights, so that the L2 cache does not hold them.
// With
// --plans, all ways to run a product are timed, not only the one that MatMul chooses;
// with --e4m3, all weights are fp8.
//   cuda_matmul_bench [--plans] [--e4m3] [first row count] [last row count]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "kernels/cuda/matmul_plan.h"
#include "kernels/device_queue.h"
#include "kernels/matmul.h"
#include "kernels/slot_copy.h"

namespace reprise::kernels {
namespace {

using cuda::MatMulPlan;

struct Shape {
  const char* name;
  int n, k, blocks, x_blocks;
  bool gated, bias;
};

// RecurrentGemma-2B, in the order of a layer.
constexpr Shape kShapes[] = {
    {"xy", 5120, 2560, 1, 1, false, true},      {"gates", 256, 256, 20, 10, false, true},
    {"lru_out", 2560, 2560, 1, 1, false, true}, {"mlp", 15360, 2560, 1, 1, true, true},
    {"down", 2560, 7680, 1, 1, false, true},    {"qkv", 3072, 2560, 1, 1, false, false},
    {"head", 256000, 2560, 1, 1, false, false}};
constexpr cuda::NextStart kNextStarts[] = {cuda::NextStart::kEarly, cuda::NextStart::kLate};
constexpr size_t kWeightBytes = size_t{400} << 20;  // of one shape: eight times the cache

size_t Elements(const Shape& s) { return size_t(s.blocks) * s.n * s.k; }

std::vector<BF16> RandomBf16(size_t count) {
  std::vector<BF16> values(count);
  uint64_t state = 88172645463325252u;
  for (BF16& value : values) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    // Sign and mantissa at random, sizes from 1/4 to 2.
    value.bits = static_cast<uint16_t>((state & 0x80ff) | (0x3e80 + (state >> 20 & 0x0100)));
  }
  return values;
}

absl::StatusOr<Buffer> Upload(const std::vector<BF16>& values, DeviceQueue& queue) {
  ASSIGN_OR_RETURN(Buffer buffer, Buffer::Allocate(Device::kCuda, values.size() * sizeof(BF16)));
  RETURN_IF_ERROR(queue.Upload(buffer.data(), values.data(), buffer.size()));
  RETURN_IF_ERROR(queue.Synchronize());
  return buffer;
}

// Microseconds of `run`, replayed as a graph: the best of several.
absl::StatusOr<double> TimeGraph(DeviceQueue& queue, const std::function<absl::Status()>& run) {
  RETURN_IF_ERROR(queue.BeginCapture());
  RETURN_IF_ERROR(run());
  ASSIGN_OR_RETURN(const DeviceGraph graph, queue.EndCapture());
  double best = 1e30;
  DeviceEvent begin, end;
  for (int i = 0; i < 6; ++i) {
    RETURN_IF_ERROR(queue.Record(begin));
    RETURN_IF_ERROR(queue.Launch(graph));
    RETURN_IF_ERROR(queue.Record(end));
    RETURN_IF_ERROR(queue.Synchronize());
    ASSIGN_OR_RETURN(const float milliseconds, DeviceQueue::Milliseconds(begin, end));
    if (i >= 2) best = std::min(best, milliseconds * 1000.0);
  }
  return best;
}

struct Weights {
  Shape shape;
  std::vector<PackedMatrix> matrices;
};

struct Buffers {
  Buffer x, bias, out;
};

MatMulParams Params(const PackedMatrix& weight, bool bias, int rows, const Buffers& buffers) {
  MatMulParams p;
  p.num_rows = rows;
  p.x_stride = int64_t{weight.x_blocks()} * weight.k();
  p.out_stride = int64_t{weight.blocks()} * weight.n() / (weight.gated() ? 2 : 1);
  p.x_bf16 = buffers.x.as<BF16>();
  p.weight = &weight;
  if (bias) p.bias = buffers.bias.as<float>();
  if (weight.gated()) {
    p.out_bf16 = buffers.out.as<BF16>();
  } else {
    p.out = buffers.out.as<float>();
  }
  return p;
}

// Microseconds of one product. `plan`: null for MatMul's own choice.
absl::StatusOr<double> TimeProduct(const Weights& weights, int rows, const Buffers& buffers,
                                   const MatMulPlan* plan, DeviceQueue& queue) {
  const Context context{Device::kCuda, nullptr, &queue};
  const size_t count = std::max<size_t>(weights.matrices.size(), 4);
  ASSIGN_OR_RETURN(const double all, TimeGraph(queue, [&]() -> absl::Status {
                     for (size_t i = 0; i < count; ++i) {
                       const MatMulParams p = Params(weights.matrices[i % weights.matrices.size()],
                                                     weights.shape.bias, rows, buffers);
                       RETURN_IF_ERROR(plan == nullptr ? MatMul(p, context)
                                                       : cuda::MatMulByPlan(p, *plan, queue));
                     }
                     return absl::OkStatus();
                   }));
  return all / static_cast<double>(count);
}

// Bytes read and written per microsecond, by the driver's copy or by our own, whichever is faster.
absl::StatusOr<double> CopyBandwidth(DeviceQueue& queue) {
  const size_t bytes = size_t{1} << 30;
  ASSIGN_OR_RETURN(const Buffer from, Buffer::Allocate(Device::kCuda, bytes));
  ASSIGN_OR_RETURN(const Buffer to, Buffer::Allocate(Device::kCuda, bytes));
  ASSIGN_OR_RETURN(const Buffer table, Buffer::Allocate(Device::kCuda, sizeof(SlotTensor)));
  const SlotTensor tensor = {from.as<uint8_t>(), bytes, 0};
  RETURN_IF_ERROR(queue.Upload(table.data(), &tensor, sizeof(tensor)));
  SlotCopyParams slots;
  slots.num_tensors = 1;
  slots.largest_bytes = bytes;
  slots.tensors = table.as<SlotTensor>();
  slots.from = 0;
  slots.image_out = to.as<uint8_t>();
  ASSIGN_OR_RETURN(const double driver,
                   TimeGraph(queue, [&] { return queue.Copy(to.data(), from.data(), bytes); }));
  ASSIGN_OR_RETURN(const double ours, TimeGraph(queue, [&] {
                     return CopySlots(slots, {Device::kCuda, nullptr, &queue});
                   }));
  return 2.0 * static_cast<double>(bytes) / std::min(driver, ours);
}

absl::Status Run(bool plans, bool e4m3, int first_rows, int last_rows) {
  ASSIGN_OR_RETURN(const std::unique_ptr<DeviceQueue> queue, DeviceQueue::Create());
  const Context context{Device::kCuda, nullptr, queue.get()};
  ASSIGN_OR_RETURN(const double copy, CopyBandwidth(*queue));
  std::printf("%s, copy %.0f GB/s\n", queue->info().name.c_str(), copy / 1000.0);

  size_t largest = 0;
  for (const Shape& shape : kShapes) largest = std::max(largest, Elements(shape));
  const std::vector<BF16> source = RandomBf16(largest);
  std::vector<Weights> all;
  for (const Shape& shape : kShapes) {
    Weights weights{shape, {}};
    const size_t bytes = Elements(shape) * sizeof(BF16);
    for (size_t i = 0; i < std::clamp<size_t>(kWeightBytes / bytes, 1, 40); ++i) {
      ASSIGN_OR_RETURN(PackedMatrix packed,
                       PackedMatrix::Pack({DType::kBF16, shape.blocks, shape.n, shape.k, false,
                                           source.data(), shape.x_blocks, shape.gated, e4m3},
                                          context));
      weights.matrices.push_back(std::move(packed));
    }
    all.push_back(std::move(weights));
  }
  constexpr int kMostRows = 4096;
  Buffers buffers;
  ASSIGN_OR_RETURN(buffers.x, Upload(RandomBf16(size_t{kMostRows} * 7680), *queue));
  const std::vector<BF16> zeros(2 * 15360);
  ASSIGN_OR_RETURN(buffers.bias, Upload(zeros, *queue));
  ASSIGN_OR_RETURN(buffers.out,
                   Buffer::Allocate(Device::kCuda, size_t{kMostRows} * 15360 * sizeof(float)));

  std::printf("%-8s %5s %9s %7s %6s %8s\n", "shape", "rows", "us", "GB/s", "copy", "TFLOP/s");
  for (const int rows : {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096}) {
    if (rows < first_rows || rows > last_rows) continue;
    for (const Weights& weights : all) {
      const Shape& s = weights.shape;
      const double outputs = double(s.blocks) * s.n / (s.gated ? 2 : 1);
      if (rows * outputs > kMostRows * 15360.0) continue;
      const double bytes = (e4m3 ? 1.0 : 2.0) * Elements(s) + 2.0 * rows * s.x_blocks * s.k +
                           outputs * rows * (s.gated ? 2 : 4);
      const double flops = 2.0 * rows * Elements(s);
      ASSIGN_OR_RETURN(const double time, TimeProduct(weights, rows, buffers, nullptr, *queue));
      std::printf("%-8s %5d %9.2f %7.0f %5.0f%% %8.1f", s.name, rows, time, bytes / time / 1000.0,
                  100.0 * bytes / time / copy, flops / time / 1e6);
      if (plans) {
        const cuda::MatMulProblem problem =
            cuda::ProblemOf(Params(weights.matrices[0], false, rows, buffers), *queue);
        // Own choice, with the next kernel's start early and late.
        MatMulPlan plan = cuda::PlanMatMul(problem);
        for (const auto next_start : kNextStarts) {
          if (rows > 64) continue;
          plan.next_start = next_start;
          ASSIGN_OR_RETURN(const double own, TimeProduct(weights, rows, buffers, &plan, *queue));
          std::printf(" %.1f", own);
        }
        for (const cuda::MatMulShape& shape : cuda::MatMulShapes(e4m3)) {
          if (rows < shape.row_tile / 2 && shape.row_tile > 32) continue;
          if (rows > shape.row_tile * 8 * shape.cluster * shape.cluster) continue;
          if (shape.split && rows > 512) continue;
          plan = cuda::PlanShape(problem, shape);
          if (!plan.exists()) continue;
          ASSIGN_OR_RETURN(const double many, TimeProduct(weights, rows, buffers, &plan, *queue));
          std::printf(" | %dx%d%s%s %.1f", shape.row_tile, shape.output_tile,
                      shape.cluster > 1 ? "c" : "", shape.split ? "s" : "", many);
        }
      }
      std::printf("\n");
      std::fflush(stdout);
    }
  }

  // The products of five layers, one after the other as in a decoding step.
  for (const int rows : {1, 8, 32}) {
    if (rows < first_rows || rows > last_rows) continue;
    for (const auto next_start : kNextStarts) {
      size_t bytes = 0;
      int products = 0;
      ASSIGN_OR_RETURN(
          const double time, TimeGraph(*queue, [&]() -> absl::Status {
            for (size_t layer = 0; layer < 5; ++layer) {
              for (int s = 0; s < 5; ++s) {
                const PackedMatrix& matrix = all[s].matrices[layer % all[s].matrices.size()];
                const MatMulParams params = Params(matrix, all[s].shape.bias, rows, buffers);
                MatMulPlan plan = cuda::PlanMatMul(cuda::ProblemOf(params, *queue));
                plan.next_start = next_start;
                RETURN_IF_ERROR(cuda::MatMulByPlan(params, plan, *queue));
                bytes += (e4m3 ? 1 : 2) * Elements(all[s].shape);
                ++products;
              }
            }
            return absl::OkStatus();
          }));
      std::printf("%d products, %d rows, next start %d: %.1f us each, %.0f GB/s, %.0f%% of copy\n",
                  products, rows, static_cast<int>(next_start), time / products,
                  bytes / time / 1000.0, 100.0 * bytes / time / copy);
    }
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace reprise::kernels

int main(int argc, char** argv) {
  bool plans = false, e4m3 = false;
  int first = 1, last = 4096, seen = 0;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--plans") == 0) {
      plans = true;
    } else if (std::strcmp(argv[i], "--e4m3") == 0) {
      e4m3 = true;
    } else {
      (seen++ == 0 ? first : last) = std::atoi(argv[i]);
    }
  }
  const absl::Status status = reprise::kernels::Run(plans, e4m3, first, last);
  if (!status.ok()) std::printf("%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
