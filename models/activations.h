// The intermediate values of one step, allocated once for the most rows that a step may have.
#ifndef REPRISE_MODELS_ACTIVATIONS_H_
#define REPRISE_MODELS_ACTIVATIONS_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "kernels/kernels.h"
#include "kernels/matmul.h"
#include "models/recurrent_gemma_config.h"

namespace reprise::models {

// A tensor that feeds a product: float32 on the CPU, bfloat16 on CUDA; the other pointer is null.
// On CUDA the factor of a norm may be left to the product.
struct Operand {
  float* f32 = nullptr;
  kernels::BF16* bf16 = nullptr;
  kernels::RowNorm norm = {};
};

// Where a product goes: one of the three.
struct Sink {
  float* f32 = nullptr;
  kernels::BF16* bf16 = nullptr;          // CUDA
  kernels::ResidualStream residual = {};  // CUDA: it is added
};

// Rows of a step outermost, float32 unless it feeds a product. A layer's values are dead when the
// next layer begins.
struct Activations {
  kernels::Buffer residual;  // [max_rows, hidden]
  kernels::Buffer normed;    // [max_rows, hidden], feeds products; CUDA: without the rows' factors
  kernels::Buffer squares;   // CUDA: [max_rows, SquareGroups(hidden)], from which they come
  kernels::Buffer delta;     // [max_rows, hidden], what a mixer or MLP adds to the residual

  // CUDA: normed and squares of the rows that want logits, where not all do.
  kernels::Buffer picked, picked_squares;

  // What the MLP's last product reads. CPU: [max_rows, 2, mlp_width], gate (then the product of
  // both) and up; CUDA: [max_rows, mlp_width], the gate is part of the product before.
  kernels::Buffer mlp;

  kernels::Buffer lru_in;       // [max_rows, 2, lru_width]: y, the other branch, and x
  kernels::Buffer lru_conv;     // [max_rows, lru_width]
  kernels::Buffer lru_conv_in;  // CUDA: the same, feeds products
  kernels::Buffer gates;        // [max_rows, 2, lru_width]: input and recurrent gate
  kernels::Buffer lru_out;      // [max_rows, lru_width], feeds products

  kernels::Buffer qkv;       // [max_rows, heads + 2 * kv_heads, head_dim]
  kernels::Buffer rotated;   // CUDA: the same in bfloat16, rotated
  kernels::Buffer attended;  // [max_rows, heads, head_dim], feeds products
  kernels::Buffer rope_cos;  // [max_rows, rotary_dims / 2]
  kernels::Buffer rope_sin;  // [max_rows, rotary_dims / 2]

  kernels::Device device = kernels::Device::kCpu;

  // Of all buffers, for each of max_rows.
  static int64_t RowBytes(const RecurrentGemmaConfig& config, kernels::Device device);
  static absl::StatusOr<Activations> Create(const RecurrentGemmaConfig& config, int max_rows,
                                            const kernels::Context& context);

  // `buffer` as what feeds a product on this device.
  Operand Feed(const kernels::Buffer& buffer) const {
    if (device == kernels::Device::kCpu) return {buffer.as<float>(), nullptr};
    return {nullptr, buffer.as<kernels::BF16>()};
  }
};

}  // namespace reprise::models

#endif  // REPRISE_MODELS_ACTIVATIONS_H_
