// The cases of MatMul that run on every device, and their weights.
#ifndef REPRISE_TESTS_KERNELS_MATMUL_CASES_H_
#define REPRISE_TESTS_KERNELS_MATMUL_CASES_H_

#include <algorithm>
#include <cmath>
#include <ostream>
#include <vector>

#include "kernels/matmul.h"
#include "tests/kernels/reference.h"
#include "tests/kernels/test_util.h"

namespace reprise::kernels {

struct MatMulCase {
  const char* name = "base";
  int rows = 5;
  int n = 128;
  int k = 96;
  DType dtype = DType::kF32;
  int blocks = 1;
  bool transposed = false;
  bool bias = false;
  bool accumulate = false;
  int extra = 0;  // strides beyond the dims
  bool e4m3 = false;
  double tolerance = 4e-6;
};

inline std::ostream& operator<<(std::ostream& out, const MatMulCase& c) { return out << c.name; }

// The source weights of a case, [blocks, n, k] or transposed, and their values as [blocks, n, k]:
// what is kept of an e4m3 weight times its output's scale.
struct Weights {
  explicit Weights(const MatMulCase& c) {
    const size_t count = size_t(c.blocks) * c.n * c.k;
    f32.resize(count);
    narrow.resize(count);
    values.resize(count);
    scales.assign(size_t(c.blocks) * c.n, 1.0f);
    for (int b = 0; b < c.blocks; ++b) {
      for (int j = 0; j < c.n; ++j) {
        for (int i = 0; i < c.k; ++i) {
          const size_t dense = (size_t(b) * c.n + j) * c.k + i;
          const size_t at = c.transposed ? (size_t(b) * c.k + i) * c.n + j : dense;
          f32[at] = Pseudo(7, dense);
          // So that a scale serves one output only, and small values become subnormal.
          if (c.e4m3) f32[at] *= std::ldexp(1.0f, j % 7 - static_cast<int>(dense % 5) * 3);
          narrow[at] =
              c.dtype == DType::kF16 ? reference::ToF16(f32[at]) : reference::ToBF16(f32[at]);
          source.data = c.dtype == DType::kF32 ? static_cast<void*>(f32.data()) : narrow.data();
          values[dense] = reference::ReadElement(source.data, c.dtype, at);
        }
      }
    }
    source.dtype = c.dtype;
    source.blocks = c.blocks;
    source.n = c.n;
    source.k = c.k;
    source.transposed = c.transposed;
    source.e4m3 = c.e4m3;
    kept = values;
    if (!c.e4m3) return;
    for (size_t output = 0; output < scales.size(); ++output) {
      double* const row = &values[output * c.k];
      double largest = 0.0;
      for (int i = 0; i < c.k; ++i) largest = std::max(largest, std::fabs(row[i]));
      const float scale = scales[output] = static_cast<float>(largest) / 448.0f;
      for (int i = 0; i < c.k; ++i) {
        const float divided = static_cast<float>(row[i]) / scale;
        kept[output * c.k + i] = reference::E4m3Value(reference::NearestE4m3(divided));
        row[i] = kept[output * c.k + i] * scale;
      }
    }
  }
  std::vector<float> f32;
  std::vector<uint16_t> narrow;
  std::vector<double> values;
  std::vector<double> kept;   // without scales
  std::vector<float> scales;  // [blocks, n]
  PackedMatrix::Source source;
};

inline std::vector<MatMulCase> MatMulCases() {
  return {
      MatMulCase{},
      MatMulCase{.name = "one_row", .rows = 1},
      MatMulCase{.name = "many_rows", .rows = 61},
      MatMulCase{.name = "n_1", .n = 1},
      MatMulCase{.name = "n_63", .n = 63},
      MatMulCase{.name = "n_65", .n = 65},
      MatMulCase{.name = "n_77", .rows = 19, .n = 77},
      MatMulCase{.name = "k_1", .k = 1},
      MatMulCase{.name = "k_129", .rows = 19, .k = 129},
      MatMulCase{.name = "k_1000", .rows = 19, .k = 1000, .tolerance = 3e-5},
      MatMulCase{.name = "bf16", .dtype = DType::kBF16},
      MatMulCase{.name = "bf16_many", .rows = 61, .n = 77, .k = 131, .dtype = DType::kBF16},
      MatMulCase{.name = "f16", .dtype = DType::kF16},
      MatMulCase{.name = "f16_many", .rows = 61, .n = 77, .k = 131, .dtype = DType::kF16},
      MatMulCase{.name = "e4m3", .e4m3 = true, .tolerance = 3e-5},
      MatMulCase{.name = "e4m3_one_row", .rows = 1, .n = 77, .e4m3 = true, .tolerance = 3e-5},
      MatMulCase{.name = "e4m3_many",
                 .rows = 61,
                 .n = 77,
                 .k = 1131,
                 .dtype = DType::kBF16,
                 .bias = true,
                 .e4m3 = true,
                 .tolerance = 3e-4},
      MatMulCase{.name = "e4m3_accumulate",
                 .n = 77,
                 .bias = true,
                 .accumulate = true,
                 .e4m3 = true,
                 .tolerance = 3e-5},
      MatMulCase{.name = "e4m3_blocks",
                 .rows = 19,
                 .n = 77,
                 .k = 70,
                 .dtype = DType::kF16,
                 .blocks = 2,
                 .transposed = true,
                 .e4m3 = true,
                 .tolerance = 3e-5},
      MatMulCase{.name = "blocks_3", .blocks = 3},
      MatMulCase{.name = "blocks_5_odd", .rows = 9, .n = 33, .k = 17, .blocks = 5},
      MatMulCase{.name = "blocks_bf16",
                 .rows = 9,
                 .n = 70,
                 .k = 70,
                 .dtype = DType::kBF16,
                 .blocks = 4,
                 .bias = true},
      MatMulCase{.name = "transposed", .n = 77, .transposed = true},
      MatMulCase{.name = "transposed_blocks",
                 .n = 77,
                 .dtype = DType::kF16,
                 .blocks = 2,
                 .transposed = true},
      MatMulCase{.name = "bias", .n = 77, .bias = true},
      MatMulCase{.name = "accumulate", .n = 77, .accumulate = true},
      MatMulCase{.name = "bias_accumulate", .rows = 19, .n = 77, .bias = true, .accumulate = true},
      MatMulCase{.name = "strided", .n = 77, .extra = 3},
      MatMulCase{.name = "strided_many", .rows = 19, .n = 77, .blocks = 2, .extra = 3}};
}

}  // namespace reprise::kernels

#endif  // REPRISE_TESTS_KERNELS_MATMUL_CASES_H_
