#include "kernels/matmul.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cuda/cuda.h"
#include "kernels/internal/validate.h"

namespace reprise::kernels {
namespace {

bool IsWeightDType(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16;
}

// Of `dim` elements a row; where it is not null.
void ValidateStream(internal::Validator& v, const ResidualStream& r) {
  v.Pointer("residual.weight", r.weight)
      .Pointer("residual.weighted", r.weighted)
      .Pointer("residual.squares", r.squares);
}

absl::Status ValidateMatMul(const MatMulParams& p, const Context& context) {
  internal::Validator v("MatMul");
  v.AtLeast("num_rows", p.num_rows, 0).Pointer("weight", p.weight);
  if (!v.ok()) return v.status();
  const PackedMatrix& w = *p.weight;
  v.Check(w.data() != nullptr, "weight", "a packed matrix", "an empty one");
  const int64_t inputs = int64_t{w.x_blocks()} * w.k();
  const int64_t outputs = int64_t{w.blocks()} * w.n() / (w.gated() ? 2 : 1);
  v.AtLeast("x_stride", p.x_stride, inputs).AtLeast("out_stride", p.out_stride, outputs);
  if (p.num_rows == 0 || !v.ok()) return v.status();
  if (context.device == Device::kCuda) {
    v.Pointer("x_bf16", p.x_bf16)
        .Check(!p.accumulate, "accumulate", "false on CUDA", "true")
        .Check(!w.gated() || p.softcap == 0.0f, "softcap", "0 with gated weights",
               absl::StrCat(p.softcap))
        .Positive("norm.eps", p.norm.eps, /*zero_allowed=*/true)
        .Check(p.norm.squares == nullptr || w.blocks() == 1, "norm", "none with several blocks",
               absl::StrCat(w.blocks(), " blocks"));
    const int outs = (p.out != nullptr) + (p.out_bf16 != nullptr) + (p.residual.stream != nullptr);
    v.Check(outs == 1, "out", "one of out, out_bf16 and residual", absl::StrCat(outs));
    if (p.residual.stream != nullptr) {
      v.Check(w.blocks() == 1 && !w.gated() && p.softcap == 0.0f, "residual",
              "one block, not gated, without softcap", "another product");
      ValidateStream(v, p.residual);
      v.Pointer("residual.delta", p.residual.delta);
    }
    return v.status();
  }
  v.Check(p.norm.squares == nullptr && p.residual.stream == nullptr, "norm, residual",
          "none on the CPU", "some");
  v.Pointer("x", p.x).Pointer("out", p.out);
  v.Check(p.softcap == 0.0f, "softcap", "0 on the CPU", absl::StrCat(p.softcap));
  v.Disjoint("out", {p.out, p.num_rows, outputs, p.out_stride}, "x",
             {p.x, p.num_rows, inputs, p.x_stride});
  return v.status();
}

absl::Status ValidateEmbedding(const EmbeddingParams& p, const Context& context) {
  internal::Validator v("Embedding");
  v.AtLeast("num_rows", p.num_rows, 0)
      .AtLeast("dim", p.dim, 1)
      .AtLeast("vocab", p.vocab, 1)
      .Check(IsWeightDType(p.dtype), "dtype", "f32, bf16 or f16", DTypeName(p.dtype));
  if (p.num_rows > 0) {
    v.Pointer("ids", p.ids).Pointer("table", p.table);
    if (p.residual.stream == nullptr) {
      v.Pointer("out", p.out);
    } else {
      v.Check(context.device == Device::kCuda && p.out == nullptr, "residual",
              "on CUDA and instead of out", "another use");
      ValidateStream(v, p.residual);
    }
  }
  RETURN_IF_ERROR(v.status());
  if (context.device == Device::kCuda) return absl::OkStatus();
  for (int r = 0; r < p.num_rows; ++r) {
    if (p.ids[r] < 0 || p.ids[r] >= p.vocab) {
      return absl::OutOfRangeError(
          absl::StrCat("Embedding: ids[", r, "]: expected 0..", p.vocab - 1, ", found ", p.ids[r]));
    }
  }
  return absl::OkStatus();
}

// Of valid params.
absl::Status RunMatMul(const MatMulParams& params, const Context& context) {
  if (params.num_rows == 0) return absl::OkStatus();
  if (context.device == Device::kCuda) return cuda::MatMul(params, *context.queue);
  cpu::MatMul(params, *context.pool);
  return absl::OkStatus();
}

}  // namespace

// Values, then scales.
size_t PackedMatrix::PackedBytes(const Source& source, Device device) {
  const size_t scales = source.e4m3 ? sizeof(float) * source.blocks * source.n : 0;
  if (device == Device::kCuda) {
    const size_t values = cuda::PackedBytes(source);
    return values == 0 ? 0 : values + scales;
  }
  const size_t panels = (source.n + kPanel - 1) / kPanel;
  const size_t element = DTypeBytes(source.e4m3 ? DType::kE4M3 : source.dtype);
  return source.blocks * panels * source.k * kPanel * element + scales;
}

absl::StatusOr<PackedMatrix> PackedMatrix::Pack(const Source& source, const Context& context) {
  RETURN_IF_ERROR(internal::ValidateContext("PackedMatrix", context));
  internal::Validator v("PackedMatrix");
  v.Check(IsWeightDType(source.dtype), "dtype", "f32, bf16 or f16", DTypeName(source.dtype))
      .AtLeast("blocks", source.blocks, 1)
      .AtLeast("n", source.n, 1)
      .AtLeast("k", source.k, 1)
      .AtLeast("x_blocks", source.x_blocks, 0)
      .Pointer("data", source.data);
  RETURN_IF_ERROR(v.status());
  const int x_blocks = source.x_blocks == 0 ? source.blocks : source.x_blocks;
  v.Check(source.blocks % x_blocks == 0, "x_blocks",
          absl::StrCat("a divisor of blocks ", source.blocks), absl::StrCat(x_blocks));
  if (source.gated) {
    v.Check(context.device == Device::kCuda, "gated", "false on the CPU", "true")
        .Check(source.blocks == 1 && source.n % 16 == 0, "gated",
               "one block and a multiple of 16 outputs",
               absl::StrCat(source.blocks, " blocks of ", source.n));
  }
  // Rows and strides of the product are counted in 32 bits per layer.
  v.Check(
      int64_t{source.blocks} * std::max(source.n, source.k) <= std::numeric_limits<int32_t>::max(),
      "blocks", "blocks * n and blocks * k below 2^31", absl::StrCat(source.blocks));
  RETURN_IF_ERROR(v.status());
  PackedMatrix packed;
  packed.dtype_ = source.e4m3 ? DType::kE4M3 : source.dtype;
  packed.blocks_ = source.blocks;
  packed.x_blocks_ = x_blocks;
  packed.gated_ = source.gated;
  packed.n_ = source.n;
  packed.k_ = source.k;
  const size_t elements = size_t(source.blocks) * packed.panels() * source.k;
  constexpr size_t kMost = std::numeric_limits<size_t>::max() / (4 * kPanel);
  if (elements > kMost) return absl::ResourceExhaustedError("PackedMatrix: too many elements");
  ASSIGN_OR_RETURN(packed.buffer_,
                   Buffer::Allocate(context.device, PackedBytes(source, context.device)));
  auto* const scales = const_cast<float*>(packed.scales());
  if (context.device == Device::kCuda) {
    if (!source.e4m3) packed.dtype_ = DType::kBF16;
    RETURN_IF_ERROR(cuda::PackMatrix(source, packed.buffer_.data(), scales, *context.queue));
    return packed;
  }
  cpu::PackMatrix(source, packed.buffer_.data(), scales, *context.pool);
  return packed;
}

absl::Status MatMul(const MatMulParams& params, const Context& context) {
  RETURN_IF_ERROR(internal::ValidateContext("MatMul", context));
  RETURN_IF_ERROR(ValidateMatMul(params, context));
  return RunMatMul(params, context);
}

absl::Status MatMulChain(absl::Span<const MatMulParams> products, const Context& context) {
  RETURN_IF_ERROR(internal::ValidateContext("MatMulChain", context));
  for (const MatMulParams& params : products) RETURN_IF_ERROR(ValidateMatMul(params, context));
  if (context.device == Device::kCuda && cuda::CanMatMulChain(products, *context.queue)) {
    return cuda::MatMulChain(products, *context.queue);
  }
  for (const MatMulParams& params : products) RETURN_IF_ERROR(RunMatMul(params, context));
  return absl::OkStatus();
}

absl::Status Embedding(const EmbeddingParams& params, const Context& context) {
  RETURN_IF_ERROR(internal::ValidateContext("Embedding", context));
  RETURN_IF_ERROR(ValidateEmbedding(params, context));
  if (params.num_rows == 0) return absl::OkStatus();
  if (context.device == Device::kCuda) return cuda::Embedding(params, *context.queue);
  cpu::Embedding(params, *context.pool);
  return absl::OkStatus();
}

}  // namespace reprise::kernels
