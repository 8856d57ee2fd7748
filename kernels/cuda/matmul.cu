// Products: which kernel runs one; and the lookup of embeddings.
#include <cuda_fp16.h>

#include "kernels/cuda/matmul_kernels.cuh"

namespace reprise::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kEach = 4;  // consecutive elements of one thread

__device__ float Widen(float value) { return value; }
__device__ float Widen(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ float Widen(__half value) { return __half2float(value); }

// grid: (pieces of a row, rows). `vectors`: rows of the table and of out are aligned for kEach.
template <typename T>
__global__ void __launch_bounds__(kThreads) EmbeddingKernel(EmbeddingParams p, bool vectors) {
  LetNextStart();
  WaitForPrevious();
  const int first = (blockIdx.x * kThreads + threadIdx.x) * kEach;
  if (first >= p.dim) return;
  for (int row = blockIdx.y; row < p.num_rows; row += gridDim.y) {
    const int id = min(max(p.ids[row], 0), p.vocab - 1);  // the caller has checked
    const T* from = static_cast<const T*>(p.table) + int64_t{id} * p.dim + first;
    float* to = p.out + int64_t{row} * p.dim + first;
    if (vectors) {
      struct alignas(kEach * sizeof(T)) Vector {
        T values[kEach];
      };
      const Vector in = *reinterpret_cast<const Vector*>(from);
      *reinterpret_cast<float4*>(to) =
          make_float4(Widen(in.values[0]) * p.scale, Widen(in.values[1]) * p.scale,
                      Widen(in.values[2]) * p.scale, Widen(in.values[3]) * p.scale);
    } else {
      for (int i = 0; i < kEach && first + i < p.dim; ++i) to[i] = Widen(from[i]) * p.scale;
    }
  }
}

bool IsAligned(const void* pointer, uintptr_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

}  // namespace

MatMulProblem ProblemOf(const MatMulParams& params, const DeviceQueue& queue) {
  const PackedMatrix& w = *params.weight;
  MatMulProblem problem;
  problem.rows = params.num_rows;
  problem.blocks = w.blocks();
  problem.n = w.n();
  problem.k = w.k();
  problem.gated = w.gated();
  problem.e4m3 = w.dtype() == DType::kE4M3;
  problem.x_aligned = IsAligned(params.x_bf16, 16) && params.x_stride % 8 == 0 &&
                      (w.x_blocks() == 1 || w.k() % 8 == 0);
  problem.multiprocessors = queue.info().multiprocessors;
  return problem;
}

absl::Status MatMulByPlan(const MatMulParams& params, const MatMulPlan& plan, DeviceQueue& queue) {
  switch (plan.kernel) {
    case MatMulPlan::Kernel::kFew:
      return LaunchFew(params, plan, queue);
    case MatMulPlan::Kernel::kMany:
      return LaunchMany(params, plan, queue);
    case MatMulPlan::Kernel::kNone:
      break;
  }
  return absl::InternalError(absl::StrCat(Describe(params), ": no kernel for it"));
}

absl::Status MatMul(const MatMulParams& params, DeviceQueue& queue) {
  return MatMulByPlan(params, PlanMatMul(ProblemOf(params, queue)), queue);
}

absl::Status Embedding(const EmbeddingParams& params, DeviceQueue& queue) {
  const dim3 grid((params.dim + kThreads * kEach - 1) / (kThreads * kEach),
                  std::min(params.num_rows, 65535));
  const bool vectors = params.dim % kEach == 0 && IsAligned(params.out, 16) &&
                       IsAligned(params.table, kEach * DTypeBytes(params.dtype));
  cudaError_t error = cudaErrorInvalidValue;
  switch (params.dtype) {
    case DType::kF32:
      error = Launch(EmbeddingKernel<float>, grid, kThreads, 0, queue, params, vectors);
      break;
    case DType::kBF16:
      error = Launch(EmbeddingKernel<__nv_bfloat16>, grid, kThreads, 0, queue, params, vectors);
      break;
    case DType::kF16:
      error = Launch(EmbeddingKernel<__half>, grid, kThreads, 0, queue, params, vectors);
      break;
    default:
      break;
  }
  return Check(error, "Embedding[rows ", params.num_rows, ", dim ", params.dim, "]");
}

}  // namespace reprise::kernels::cuda
