// Operations within one row. Bound by bytes when rows are many and by latency when they are few.
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/vector.cuh"
#include "kernels/matmul.h"

namespace reprise::kernels::cuda {
namespace {

constexpr int kThreads = 256;

// grid: rows x pieces of kThreads * kSize columns, pieces fastest.
template <int kSize>
__global__ void __launch_bounds__(kThreads) GatedKernel(GatedActivationParams p, int pieces) {
  LetNextStart();
  WaitForPrevious();
  const int64_t row = blockIdx.x / pieces;
  const int column = (blockIdx.x % pieces * kThreads + threadIdx.x) * kSize;
  if (column >= p.dim) return;
  const Floats<kSize> gate = LoadFloats<kSize>(p.gate + row * p.gate_stride + column);
  const Floats<kSize> up = LoadFloats<kSize>(p.up + row * p.up_stride + column);
  Floats<kSize> out;
#pragma unroll
  for (int i = 0; i < kSize; ++i) out.v[i] = Activate(p.activation, gate.v[i]) * up.v[i];
  StoreFloats<kSize>(p.out + row * p.out_stride + column, out);
}

// One block per row.
__global__ void __launch_bounds__(kThreads) PickRowsKernel(PickRowsParams p) {
  LetNextStart();
  WaitForPrevious();
  const int64_t to = blockIdx.x, from = p.row_ids[to];
  const int groups = SquareGroups(p.dim);
  for (int i = threadIdx.x; i < p.dim; i += kThreads) {
    p.out_weighted[to * p.dim + i] = p.weighted[from * p.dim + i];
  }
  for (int i = threadIdx.x; i < groups; i += kThreads) {
    p.out_squares[to * groups + i] = p.squares[from * groups + i];
  }
}

template <int kSize>
__global__ void __launch_bounds__(kThreads) SoftcapKernel(SoftcapParams p, int64_t count) {
  LetNextStart();
  WaitForPrevious();
  const int64_t at = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kSize;
  if (at >= count) return;
  Floats<kSize> x = LoadFloats<kSize>(p.x + at);
#pragma unroll
  for (int i = 0; i < kSize; ++i) x.v[i] = p.cap * tanhf(x.v[i] / p.cap);
  StoreFloats<kSize>(p.x + at, x);
}

}  // namespace

absl::Status PickRows(const PickRowsParams& p, DeviceQueue& queue) {
  return Check(Launch(PickRowsKernel, p.num_rows, kThreads, 0, queue, p), "PickRows[rows ",
               p.num_rows, ", dim ", p.dim, "]");
}

absl::Status GatedActivation(const GatedActivationParams& p, DeviceQueue& queue) {
  const bool vector = p.dim % 4 == 0 && Aligned(p.gate, p.gate_stride) &&
                      Aligned(p.up, p.up_stride) && Aligned(p.out, p.out_stride);
  const int columns = vector ? 4 * kThreads : kThreads;
  const int pieces = (p.dim + columns - 1) / columns;
  const int64_t blocks = int64_t{p.num_rows} * pieces;
  return Check(Launch(vector ? GatedKernel<4> : GatedKernel<1>, static_cast<unsigned>(blocks),
                      kThreads, 0, queue, p, pieces),
               "GatedActivation[rows ", p.num_rows, ", dim ", p.dim, "]");
}

absl::Status Softcap(const SoftcapParams& p, DeviceQueue& queue) {
  const int64_t count = int64_t{p.num_rows} * p.dim;
  const bool vector = count % 4 == 0 && Aligned(p.x, count);
  const int64_t per_block = vector ? 4 * kThreads : kThreads;
  const int64_t blocks = (count + per_block - 1) / per_block;
  return Check(Launch(vector ? SoftcapKernel<4> : SoftcapKernel<1>, static_cast<unsigned>(blocks),
                      kThreads, 0, queue, p, count),
               "Softcap[rows ", p.num_rows, ", dim ", p.dim, "]");
}

}  // namespace reprise::kernels::cuda
