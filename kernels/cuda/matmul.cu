// Products of whatever alignment, and into residual streams; the lookup of embeddings.
#include <cuda_fp16.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/matmul_plan.h"
#include "kernels/cuda/residual.cuh"

namespace reprise::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kEach = 4;  // consecutive elements of one thread

__device__ float Widen(float value) { return value; }
__device__ float Widen(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ float Widen(__half value) { return __half2float(value); }

// grid: (pieces of a row, rows). `vectors`: rows of all tensors are aligned for kEach.
template <typename T>
__global__ void __launch_bounds__(kThreads) EmbeddingKernel(EmbeddingParams p, bool vectors) {
  LetNextStart();
  WaitForPrevious();
  const int first = (blockIdx.x * kThreads + threadIdx.x) * kEach;
  for (int row = blockIdx.y; row < p.num_rows; row += gridDim.y) {
    const int id = min(max(p.ids[row], 0), p.vocab - 1);  // the caller has checked
    const T* from = static_cast<const T*>(p.table) + int64_t{id} * p.dim + first;
    Floats<kEach> values = {};
    if (vectors && first < p.dim) {
      struct alignas(kEach * sizeof(T)) Vector {
        T values[kEach];
      };
      const Vector in = *reinterpret_cast<const Vector*>(from);
#pragma unroll
      for (int i = 0; i < kEach; ++i) values.v[i] = Widen(in.values[i]) * p.scale;
    } else {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        if (first + i < p.dim) values.v[i] = Widen(from[i]) * p.scale;
      }
    }
    if (p.residual.stream != nullptr) {
      WriteStream(p.residual, row, first, p.dim, vectors,
                  LoadUpToFour(p.residual.weight, first, p.dim, vectors), values);
      continue;
    }
    float* const to = p.out + int64_t{row} * p.dim + first;
    if (vectors && first < p.dim) {
      StoreFloats<kEach>(to, values);
    } else {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        if (first + i < p.dim) to[i] = values.v[i];
      }
    }
  }
}

// What a product left in delta goes into the stream. The same grid.
__global__ void __launch_bounds__(kThreads)
    AddKernel(ResidualStream r, int rows, int dim, bool vectors) {
  LetNextStart();
  const int first = (blockIdx.x * kThreads + threadIdx.x) * kEach;
  const Floats<kEach> weight = LoadUpToFour(r.weight, first, dim, vectors);
  WaitForPrevious();
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    Floats<kEach> values = LoadUpToFour(r.stream + row * dim, first, dim, vectors);
    const Floats<kEach> more = LoadUpToFour(r.delta + row * dim, first, dim, vectors);
#pragma unroll
    for (int i = 0; i < kEach; ++i) values.v[i] += more.v[i];
    WriteStream(r, row, first, dim, vectors, weight, values);
  }
}

dim3 RowGrid(int rows, int dim) {
  return dim3((dim + kThreads * kEach - 1) / (kThreads * kEach), std::min(rows, 65535));
}

// Rows of [blocks, k] with blocks and rows moved apart to multiples of 8 elements. One thread per
// element of the result.
__global__ void __launch_bounds__(kThreads)
    AlignKernel(const __nv_bfloat16* x, int64_t x_stride, int k, int blocks, int64_t padded,
                int64_t count, __nv_bfloat16* out) {
  LetNextStart();
  WaitForPrevious();
  const int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (at >= count) return;
  const int64_t slice = at / padded, row = slice / blocks;
  const int i = static_cast<int>(at - slice * padded);
  out[at] = i < k ? x[row * x_stride + (slice - row * blocks) * k + i] : ToBf16(0.0f);
}

// The copy engine wants 16 bytes.
bool IsAligned(const MatMulParams& params) {
  const PackedMatrix& w = *params.weight;
  return Aligned(params.x_bf16, params.x_stride, 16) && (w.x_blocks() == 1 || w.k() % 8 == 0);
}

// Where the segments of a tile meet in one place, sums are added to the stream there; otherwise
// that is left to another kernel, with the same bits.
absl::Status MatMulAligned(const MatMulParams& params, const MatMulPlan& plan, DeviceQueue& queue,
                           int64_t x_block_stride) {
  const ResidualStream& r = params.residual;
  if (r.stream == nullptr || plan.split) return TileMatMul(params, plan, queue, x_block_stride);
  const int dim = params.weight->n();
  MatMulParams product = params;
  product.residual = {};
  product.out = r.delta;
  product.out_stride = dim;
  RETURN_IF_ERROR(TileMatMul(product, plan, queue, x_block_stride));
  const bool vectors = InVectors(r, dim) && Aligned(r.delta, dim);
  return Check(Launch(AddKernel, RowGrid(params.num_rows, dim), kThreads, 0, queue, r,
                      params.num_rows, dim, vectors),
               "MatMul[rows ", params.num_rows, "]: addition to a stream of ", dim);
}

template <typename T>
T* Moved(T* pointer, int64_t elements) {
  return pointer == nullptr ? nullptr : pointer + elements;
}

// By way of an aligned copy of x, as many rows at a time as fit. Models whose widths are multiples
// of 8 do not come here.
absl::Status MatMulUnaligned(const MatMulParams& params, DeviceQueue& queue) {
  const PackedMatrix& w = *params.weight;
  const int64_t padded = (w.k() + 7) / 8 * 8, row_elements = padded * w.x_blocks();
  const int64_t most = static_cast<int64_t>(queue.scratch_bytes() / sizeof(BF16)) / row_elements;
  if (most == 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat("MatMul: an aligned row of x takes ", row_elements * sizeof(BF16),
                     " bytes of scratch, it has ", queue.scratch_bytes()));
  }
  for (int64_t first = 0; first < params.num_rows; first += most) {
    MatMulParams part = params;
    part.num_rows = static_cast<int>(std::min<int64_t>(most, params.num_rows - first));
    const int64_t count = part.num_rows * row_elements;
    auto* const copy = static_cast<__nv_bfloat16*>(queue.scratch());
    RETURN_IF_ERROR(Check(
        Launch(AlignKernel, static_cast<unsigned>((count + kThreads - 1) / kThreads), kThreads, 0,
               queue,
               reinterpret_cast<const __nv_bfloat16*>(params.x_bf16) + first * params.x_stride,
               params.x_stride, w.k(), w.x_blocks(), padded, count, copy),
        "MatMul: aligned copy of x"));
    part.x_bf16 = reinterpret_cast<BF16*>(copy);
    part.x_stride = row_elements;
    part.out = Moved(params.out, first * params.out_stride);
    part.out_bf16 = Moved(params.out_bf16, first * params.out_stride);
    part.norm.squares = Moved(params.norm.squares, first * SquareGroups(w.k()));
    ResidualStream& r = part.residual;
    r.stream = Moved(r.stream, first * w.n());
    r.weighted = Moved(r.weighted, first * w.n());
    r.squares = Moved(r.squares, first * SquareGroups(w.n()));
    r.delta = Moved(r.delta, first * w.n());
    RETURN_IF_ERROR(MatMulAligned(part, PlanMatMul(ProblemOf(part, queue)), queue, padded));
  }
  return absl::OkStatus();
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
  problem.capped = params.softcap > 0.0f;
  problem.e4m3 = w.dtype() == DType::kE4M3;
  problem.multiprocessors = queue.info().multiprocessors;
  return problem;
}

absl::Status MatMul(const MatMulParams& params, DeviceQueue& queue) {
  if (!IsAligned(params)) return MatMulUnaligned(params, queue);
  return MatMulByPlan(params, PlanMatMul(ProblemOf(params, queue)), queue);
}

absl::Status MatMulByPlan(const MatMulParams& params, const MatMulPlan& plan, DeviceQueue& queue) {
  return MatMulAligned(params, plan, queue, params.weight->k());
}

absl::Status Embedding(const EmbeddingParams& params, DeviceQueue& queue) {
  const dim3 grid = RowGrid(params.num_rows, params.dim);
  const auto* const table = static_cast<const char*>(params.table);
  const bool vectors = params.dim % kEach == 0 && Aligned(params.out, params.dim) &&
                       Aligned(table, 0, kEach * DTypeBytes(params.dtype)) &&
                       InVectors(params.residual, params.dim);
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
