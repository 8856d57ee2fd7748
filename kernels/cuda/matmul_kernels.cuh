// What the two product kernels share.
#ifndef REPRISE_KERNELS_CUDA_MATMUL_KERNELS_CUH_
#define REPRISE_KERNELS_CUDA_MATMUL_KERNELS_CUH_

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/matmul_plan.h"
#include "kernels/cuda/packed_layout.h"

namespace reprise::kernels::cuda {

// Where sums go.
struct MatMulOutput {
  int rows = 0;
  int n = 0;  // sums per block
  int64_t stride = 0;
  const float* scales = nullptr;  // of e4m3 weights: sums are multiplied by them first
  const float* bias = nullptr;
  Activation activation = Activation::kGeluTanh;
  float softcap = 0.0f;
  float* out = nullptr;
  __nv_bfloat16* out_bf16 = nullptr;
  bool vectors = false;  // rows of out are aligned for 4 results, and their number is too

  // Where softcap > 0.
  __device__ __forceinline__ float Capped(float sum) const {
    return softcap * tanhf(sum / softcap);
  }
  __device__ void Write(int64_t at, float value) const {
    if (out != nullptr) {
      out[at] = value;
    } else {
      out_bf16[at] = ToBf16(value);
    }
  }
  __device__ void WriteFour(int64_t at, const float (&values)[4]) const {
    if (out != nullptr) {
      *reinterpret_cast<float4*>(out + at) =
          make_float4(values[0], values[1], values[2], values[3]);
    } else {
      const __nv_bfloat162 pairs[] = {__floats2bfloat162_rn(values[0], values[1]),
                                      __floats2bfloat162_rn(values[2], values[3])};
      uint2 bits;
      memcpy(&bits, pairs, sizeof(bits));
      *reinterpret_cast<uint2*>(out_bf16 + at) = bits;
    }
  }
};

// The two sums of one lane, row `strip_row` (0..7) of both strips of `tile`, for one row of x.
template <bool kGated>
__device__ __forceinline__ void Finish(const MatMulOutput& o, int block, int tile, int strip_row,
                                       int row, float low, float high, bool store_low = true,
                                       bool store_high = true) {
  if (row >= o.rows) return;
  if constexpr (kGated) {
    const int j = tile * kStripOutputs + strip_row, half = o.n / 2;
    if (j >= half) return;
    if (o.scales != nullptr) {
      low *= o.scales[j];
      high *= o.scales[half + j];
    }
    if (o.bias != nullptr) {
      low += o.bias[j];
      high += o.bias[half + j];
    }
    o.Write(row * o.stride + j, Activate(o.activation, low) * high);
  } else {
    const int64_t first = int64_t{block} * o.n;
    const auto store = [&](int j, float sum) {
      if (j >= o.n) return;
      if (o.scales != nullptr) sum *= o.scales[first + j];
      if (o.bias != nullptr) sum += o.bias[first + j];
      if (o.softcap > 0.0f) sum = o.Capped(sum);
      o.Write(row * o.stride + first + j, sum);
    };
    const int j = tile * kTileOutputs + strip_row;
    if (store_low) store(j, low);
    if (store_high) store(j + kStripOutputs, high);
  }
}

// When the next kernel's blocks may start and fetch their first weights.
//
// kEarly: at once; then both kernels' loads share the bandwidth. kLate: when this kernel has asked
// for all its weights. kTurns: at once, but a block fetches only when the one before it on the same
// multiprocessor has asked for everything. `turns` is a word per multiprocessor, the number of
// blocks there that still fetch; it orders nothing that results depend on.
class Turn {
 public:
  __device__ Turn(NextStart when, uint32_t* turns) : when_(when), word_(turns) {
    if (when == NextStart::kLate) return;
    LetNextStart();
    uint32_t multiprocessor;
    asm("mov.u32 %0, %%smid;" : "=r"(multiprocessor));
    word_ = turns + multiprocessor % kTurnWords;
  }
  // By one thread.
  __device__ void Begin() const {
    if (when_ != NextStart::kTurns) return;
    // Bounded: a turn is a wish.
    for (int i = 0; i < 64 && *const_cast<volatile uint32_t*>(word_) != 0; ++i) __nanosleep(64);
    atomicAdd(word_, 1);
  }
  __device__ void End() const {
    if (when_ == NextStart::kTurns) atomicSub(word_, 1);
    if (when_ == NextStart::kLate) LetNextStart();
  }

 private:
  NextStart when_;
  uint32_t* word_;
};

absl::Status LaunchFew(const MatMulParams& params, const MatMulPlan& plan, DeviceQueue& queue);
absl::Status LaunchMany(const MatMulParams& params, const MatMulPlan& plan, DeviceQueue& queue);

inline PackedLayout LayoutOf(const PackedMatrix& w) {
  return PackedLayout::Of(w.n(), w.k(), w.dtype() == DType::kE4M3);
}

inline MatMulOutput OutputOf(const MatMulParams& params) {
  MatMulOutput output;
  output.rows = params.num_rows;
  output.n = params.weight->n();
  output.stride = params.out_stride;
  output.scales = params.weight->scales();
  output.bias = params.bias;
  output.activation = params.activation;
  output.softcap = params.softcap;
  output.out = params.out;
  output.out_bf16 = reinterpret_cast<__nv_bfloat16*>(params.out_bf16);
  const auto address =
      reinterpret_cast<uintptr_t>(params.out) | reinterpret_cast<uintptr_t>(params.out_bf16);
  output.vectors = address % 16 == 0 && params.out_stride % 4 == 0 && output.n % 8 == 0;
  return output;
}

// "MatMul[rows 1, blocks 1, n 2560, k 7680]"
inline std::string Describe(const MatMulParams& params) {
  return absl::StrCat("MatMul[rows ", params.num_rows, ", blocks ", params.weight->blocks(), ", n ",
                      params.weight->n(), ", k ", params.weight->k(), "]");
}

}  // namespace reprise::kernels::cuda

#endif  // REPRISE_KERNELS_CUDA_MATMUL_KERNELS_CUH_
