#include "kernels/matmul.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/cpu.h"
#include "kernels/internal/validate.h"

namespace reprise::kernels {
namespace {

bool IsWeightDType(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16;
}

absl::Status ValidateMatMul(const MatMulParams& p) {
  internal::Validator v("MatMul");
  v.AtLeast("num_rows", p.num_rows, 0).Pointer("weight", p.weight);
  if (!v.ok()) return v.status();
  const PackedMatrix& w = *p.weight;
  v.Check(w.data() != nullptr, "weight", "a packed matrix", "an empty one");
  const int64_t inputs = int64_t{w.blocks()} * w.k();
  const int64_t outputs = int64_t{w.blocks()} * w.n();
  v.AtLeast("x_stride", p.x_stride, inputs).AtLeast("out_stride", p.out_stride, outputs);
  if (p.num_rows == 0 || !v.ok()) return v.status();
  v.Pointer("x", p.x).Pointer("out", p.out);
  int64_t x_rows = p.num_rows;
  if (p.row_ids != nullptr) {
    x_rows = 0;
    for (int r = 0; r < p.num_rows; ++r) {
      if (p.row_ids[r] < 0) {
        return v.AtLeast(absl::StrCat("row_ids[", r, "]"), p.row_ids[r], 0).status();
      }
      x_rows = std::max<int64_t>(x_rows, int64_t{p.row_ids[r]} + 1);
    }
  }
  v.Disjoint("out", {p.out, p.num_rows, outputs, p.out_stride}, "x",
             {p.x, x_rows, inputs, p.x_stride});
  return v.status();
}

absl::Status ValidateEmbedding(const EmbeddingParams& p) {
  internal::Validator v("Embedding");
  v.AtLeast("num_rows", p.num_rows, 0)
      .AtLeast("dim", p.dim, 1)
      .AtLeast("vocab", p.vocab, 1)
      .Check(IsWeightDType(p.dtype), "dtype", "f32, bf16 or f16", DTypeName(p.dtype));
  if (p.num_rows > 0) v.Pointer("ids", p.ids).Pointer("table", p.table).Pointer("out", p.out);
  RETURN_IF_ERROR(v.status());
  for (int r = 0; r < p.num_rows; ++r) {
    if (p.ids[r] < 0 || p.ids[r] >= p.vocab) {
      return absl::OutOfRangeError(
          absl::StrCat("Embedding: ids[", r, "]: expected 0..", p.vocab - 1, ", found ", p.ids[r]));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PackedMatrix> PackedMatrix::Pack(const Source& source, const Context& context) {
  RETURN_IF_ERROR(internal::ValidateContext("PackedMatrix", context));
  internal::Validator v("PackedMatrix");
  v.Check(IsWeightDType(source.dtype), "dtype", "f32, bf16 or f16", DTypeName(source.dtype))
      .AtLeast("blocks", source.blocks, 1)
      .AtLeast("n", source.n, 1)
      .AtLeast("k", source.k, 1)
      .Pointer("data", source.data);
  // Rows and strides of the product are counted in 32 bits per layer.
  v.Check(
      int64_t{source.blocks} * std::max(source.n, source.k) <= std::numeric_limits<int32_t>::max(),
      "blocks", "blocks * n and blocks * k below 2^31", absl::StrCat(source.blocks));
  RETURN_IF_ERROR(v.status());
  PackedMatrix packed;
  packed.dtype_ = source.dtype;
  packed.blocks_ = source.blocks;
  packed.n_ = source.n;
  packed.k_ = source.k;
  const size_t elements = size_t(source.blocks) * packed.panels() * source.k;
  constexpr size_t kMost = std::numeric_limits<size_t>::max() / (4 * kPanel);
  if (elements > kMost) return absl::ResourceExhaustedError("PackedMatrix: too many elements");
  switch (context.device) {
    case Device::kCpu: {
      ASSIGN_OR_RETURN(
          packed.buffer_,
          Buffer::Allocate(context.device, elements * kPanel * DTypeBytes(source.dtype)));
      cpu::PackMatrix(source, packed.buffer_.data(), *context.pool);
      return packed;
    }
    case Device::kCuda:
      break;
  }
  return absl::UnimplementedError("PackedMatrix: no implementation for this device");
}

absl::Status MatMul(const MatMulParams& params, const Context& context) {
  RETURN_IF_ERROR(internal::ValidateContext("MatMul", context));
  RETURN_IF_ERROR(ValidateMatMul(params));
  if (params.num_rows == 0) return absl::OkStatus();
  switch (context.device) {
    case Device::kCpu:
      cpu::MatMul(params, *context.pool);
      return absl::OkStatus();
    case Device::kCuda:
      break;
  }
  return absl::UnimplementedError("MatMul: no implementation for this device");
}

absl::Status Embedding(const EmbeddingParams& params, const Context& context) {
  RETURN_IF_ERROR(internal::ValidateContext("Embedding", context));
  RETURN_IF_ERROR(ValidateEmbedding(params));
  if (params.num_rows == 0) return absl::OkStatus();
  switch (context.device) {
    case Device::kCpu:
      cpu::Embedding(params, *context.pool);
      return absl::OkStatus();
    case Device::kCuda:
      break;
  }
  return absl::UnimplementedError("Embedding: no implementation for this device");
}

}  // namespace reprise::kernels
