// Products of activations with packed weights.
#ifndef REPRISE_KERNELS_MATMUL_H_
#define REPRISE_KERNELS_MATMUL_H_

#include <cstdint>

#include "absl/types/span.h"
#include "kernels/kernels.h"

namespace reprise::kernels {

// The weights of a linear layer, rearranged once at load for the product below: `blocks` matrices
// of [n, k] (blocks > 1: block-diagonal, as RG-LRU's gates). Immutable after Pack; thread-safe.
// CPU layout: panels of kPanel outputs, k-major within a panel, so that SIMD lanes run along the
// outputs; the last panel is padded with zeros. CUDA layout: kernels/cuda/packed_layout.h.
// Weights in kE4M3 are those of the source divided by a scale per output, which is the largest
// magnitude of that output's weights / 448, and rounded.
class PackedMatrix {
 public:
  static constexpr int kPanel = 64;

  struct Source {
    DType dtype = DType::kF32;  // kF32, kBF16 or kF16
    int blocks = 1;
    int n = 0;                   // outputs per block
    int k = 0;                   // inputs per block
    bool transposed = false;     // false: data is [blocks, n, k]; true: [blocks, k, n]
    const void* data = nullptr;  // borrowed for the call
    int x_blocks = 0;            // blocks of x; block b reads block b % x_blocks; 0 = blocks
    bool gated = false;          // outputs 0..n/2-1 gate n/2..n-1, see MatMulParams; CUDA only
    bool e4m3 = false;           // keep kE4M3 and scales
  };
  // The CPU keeps the source's dtype in memory (kF16 and kBF16 stay 2 bytes): weights are read once
  // per step and widened in registers. CUDA rounds everything to kBF16. With `e4m3` both keep the
  // same kE4M3 values and scales. `data` is host memory, finite values.
  static absl::StatusOr<PackedMatrix> Pack(const Source& source, const Context& context);
  // bytes() of what Pack makes of it; `data` is not looked at. 0 for CUDA in a build without it.
  static size_t PackedBytes(const Source& source, Device device);

  PackedMatrix() = default;
  int blocks() const { return blocks_; }
  int x_blocks() const { return x_blocks_; }
  bool gated() const { return gated_; }
  int n() const { return n_; }
  int k() const { return k_; }
  DType dtype() const { return dtype_; }
  size_t bytes() const { return buffer_.size(); }
  const void* data() const { return buffer_.data(); }
  // [blocks * n] of kE4M3, on the same device; otherwise null.
  const float* scales() const {
    if (dtype_ != DType::kE4M3) return nullptr;
    return buffer_.as<float>() + (buffer_.size() / sizeof(float) - size_t(blocks_) * n_);
  }
  int panels() const { return (n_ + kPanel - 1) / kPanel; }  // per block

 private:
  DType dtype_ = DType::kF32;
  int blocks_ = 0, x_blocks_ = 0, n_ = 0, k_ = 0;
  bool gated_ = false;
  Buffer buffer_;  // CPU: [blocks, panels, k, kPanel] of dtype
};

// RMS norm without a pass of its own (CUDA). What feeds a residual stream of `dim` elements a row,
// a product or the embedding, leaves besides the stream itself what the next norm needs of it; the
// product that reads the norm multiplies each of its sums by 1 / sqrt(mean square + eps), a factor
// of the whole row. Squares are summed in groups of 64 elements: fma over four consecutive ones
// from zero, these 16 sums with halves of 8, 4, 2, 1; group g goes to partial sum g mod 8, in
// order, and these are added with halves of 4, 2, 1.
inline constexpr int kSquareGroup = 64;
constexpr int SquareGroups(int dim) { return (dim + kSquareGroup - 1) / kSquareGroup; }

struct ResidualStream {
  float* stream = nullptr;        // [num_rows, dim]
  const float* weight = nullptr;  // [dim], of the norm that follows
  float weight_offset = 1.0f;
  BF16* weighted = nullptr;  // [num_rows, dim], stream * (weight_offset + weight), rounded
  float* squares = nullptr;  // [num_rows, SquareGroups(dim)]
  float* delta = nullptr;    // [num_rows, dim], room that a product may use
};
struct RowNorm {
  const float* squares = nullptr;  // of the rows of x, dim = k; null: x is taken as it is
  float eps = 1e-6f;
};

// out[r, b*n + j] = bias[b*n + j] + sum_{i = 0..k-1} x[r, (b % x_blocks)*k + i] * W_b[j, i]
// With gated weights (one block): out[r, j] = act(s[j]) * s[n/2 + j], j < n/2, of those sums s.
//
// Exactness: each output starts from zero and adds its products in the order i = 0, 1, ..., k-1;
// with kE4M3 the sum is then multiplied by the output's scale; the bias (and, with `accumulate`,
// the old value of out) is added last. On the CPU each product is one fused multiply-add. On CUDA
// at most five segments of the inputs are summed from zero by tensor cores, 16 inputs at a time,
// and then added up in order; the total is multiplied by the norm's factor first. Neither num_rows
// nor threads nor tiles change that. `out` must not overlap `x`.
struct MatMulParams {
  int num_rows = 0;
  int64_t x_stride = 0;    // elements between rows of x, >= x_blocks * k
  int64_t out_stride = 0;  // elements between rows of out, >= blocks * n (gated: n / 2)
  Activation activation = Activation::kGeluTanh;  // of gated weights
  const float* x = nullptr;                       // [num_rows, x_blocks * k]
  const BF16* x_bf16 = nullptr;                   // the same on CUDA
  const PackedMatrix* weight = nullptr;
  const float* bias = nullptr;  // [blocks * n] or null
  bool accumulate = false;      // out += instead of out =; CPU only
  float softcap = 0.0f;         // > 0: out = softcap * tanh(out / softcap); CUDA only, not gated
  float* out = nullptr;         // [num_rows, blocks * n]
  BF16* out_bf16 = nullptr;     // CUDA: instead of out, rounded
  RowNorm norm = {};            // CUDA, one block
  // CUDA, one block, not gated: instead of out, which is added to the stream (dim = n).
  ResidualStream residual = {};
};
absl::Status MatMul(const MatMulParams& params, const Context& context);

// The same products with the same results, in order. On CUDA a few of them with few rows are one
// kernel where each reads what the one before makes, all of it: out_bf16, or residual.weighted and
// squares. Those of any but the last may have been written or not.
absl::Status MatMulChain(absl::Span<const MatMulParams> products, const Context& context);

// The same product with one weight row per token: out[r, :] = scale * table[ids[r], :].
// The table is row-major, as in the checkpoint. OUT_OF_RANGE names the first bad id.
struct EmbeddingParams {
  int num_rows = 0;
  int dim = 0;
  int vocab = 0;
  DType dtype = DType::kF32;
  float scale = 1.0f;
  const int32_t* ids = nullptr;  // [num_rows]
  const void* table = nullptr;   // [vocab, dim] of dtype
  float* out = nullptr;          // [num_rows, dim]
  ResidualStream residual = {};  // CUDA: instead of out, which becomes the stream
};
absl::Status Embedding(const EmbeddingParams& params, const Context& context);

}  // namespace reprise::kernels

#endif  // REPRISE_KERNELS_MATMUL_H_
