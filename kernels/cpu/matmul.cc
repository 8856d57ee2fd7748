#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/matmul_plan.h"
#include "kernels/cpu/scratch.h"
#include "kernels/e4m3.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/matmul.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/gemm-inl.h"

HWY_BEFORE_NAMESPACE();
namespace reprise::kernels::cpu::HWY_NAMESPACE {
namespace {

constexpr size_t kPanel = PackedMatrix::kPanel;

// out = sum (* scale) (+ bias) (+ out) for `width` outputs of one row.
void Finish(const float* HWY_RESTRICT sum, const float* scales, const float* bias, bool accumulate,
            size_t width, float* HWY_RESTRICT out) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  const hn::CappedTag<float, 1> d1;
  const auto finish = [&](auto tag, size_t j) HWY_ATTR {
    auto value = hn::LoadU(tag, sum + j);
    if (scales != nullptr) value = hn::Mul(value, hn::LoadU(tag, scales + j));
    if (bias != nullptr) value = hn::Add(value, hn::LoadU(tag, bias + j));
    if (accumulate) value = hn::Add(hn::LoadU(tag, out + j), value);
    hn::StoreU(value, tag, out + j);
  };
  size_t j = 0;
  for (; j + lanes <= width; j += lanes) finish(d, j);
  for (; j < width; ++j) finish(d1, j);
}

// Rows [row_begin, row_end) of the outputs of one panel. `sums` holds a row block, `wide` a K
// block of float32 weights.
template <class TB>
void Tile(const MatMulParams& p, const MatMulPlan& plan, size_t block, size_t panel,
          size_t row_begin, size_t row_end, float* HWY_RESTRICT sums, float* HWY_RESTRICT wide) {
  const PackedMatrix& w = *p.weight;
  const size_t n = w.n(), k = w.k();
  const TB* weights = static_cast<const TB*>(w.data()) + (block * w.panels() + panel) * k * kPanel;
  const size_t rows = row_end - row_begin;
  const auto x_row = [&](size_t r) {
    return p.x + (row_begin + r) * p.x_stride + block % p.weight->x_blocks() * k;
  };
  for (size_t k0 = 0; k0 < k; k0 += plan.k_block) {
    const size_t kc = std::min(plan.k_block, k - k0);
    const TB* now = weights + k0 * kPanel;
    const size_t groups = (rows + plan.micro_rows - 1) / plan.micro_rows;
    for (size_t g = 0; g < groups; ++g) {
      const size_t r = g * plan.micro_rows;
      const size_t micro = std::min(plan.micro_rows, rows - r);
      const float* a[kMicroRows];
      for (size_t i = 0; i < micro; ++i) a[i] = x_row(r + i) + k0;
      float* acc = sums + r * kPanel;
      if (!plan.blocked) {
        Product(micro, kc, a, now, kPanel, kPanel, acc, kPanel, k0 == 0);
        continue;
      }
      // Each group fetches its share of the K block that comes next in this panel.
      Fetch fetch{now, 0};
      if (k0 + kc < k) {
        const size_t bytes = std::min(kc, k - k0 - kc) * kPanel * sizeof(TB);
        const char* next = reinterpret_cast<const char*>(now + kc * kPanel);
        fetch = {next + g * bytes / groups, bytes / groups};
      }
      if constexpr (sizeof(TB) == sizeof(float)) {
        Product(micro, kc, a, now, kPanel, kPanel, acc, kPanel, k0 == 0, fetch);
      } else if (g == 0) {
        Product(micro, kc, a, now, kPanel, kPanel, acc, kPanel, k0 == 0,
                FetchAndWiden{fetch, wide});
      } else {
        Product(micro, kc, a, wide, kPanel, kPanel, acc, kPanel, k0 == 0, fetch);
      }
    }
  }
  const size_t column = panel * kPanel;
  const size_t width = std::min(kPanel, n - column);
  const float* bias = p.bias != nullptr ? p.bias + block * n + column : nullptr;
  const float* scales = w.scales() != nullptr ? w.scales() + block * n + column : nullptr;
  for (size_t r = 0; r < rows; ++r) {
    Finish(sums + r * kPanel, scales, bias, p.accumulate, width,
           p.out + (row_begin + r) * p.out_stride + block * n + column);
  }
}

template <class TB>
void MatMulTyped(const MatMulParams& p, ThreadPool& pool) {
  const PackedMatrix& w = *p.weight;
  const size_t panels = size_t(w.blocks()) * w.panels();
  const MatMulPlan plan = PlanMatMul(p.num_rows, panels, w.k(), pool.size(), kMicroRows);
  const size_t rows = p.num_rows;
  // Panels run fastest, so that neighbouring tiles share their rows of x.
  pool.Run(plan.row_blocks * panels, plan.grain, [&](int64_t begin, int64_t end, int) HWY_ATTR {
    float* sums = ThreadScratch((plan.row_block + (plan.blocked ? plan.k_block : 0)) * kPanel);
    float* wide = sums + plan.row_block * kPanel;
    for (int64_t tile = begin; tile < end; ++tile) {
      const size_t row_begin = tile / panels * plan.row_block;
      const size_t row_end = std::min(row_begin + plan.row_block, rows);
      const size_t panel = tile % panels;
      Tile<TB>(p, plan, panel / w.panels(), panel % w.panels(), row_begin, row_end, sums, wide);
    }
  });
}

void MatMulImpl(const MatMulParams& p, ThreadPool& pool) {
  switch (p.weight->dtype()) {
    case DType::kF32:
      return MatMulTyped<float>(p, pool);
    case DType::kBF16:
      return MatMulTyped<hwy::bfloat16_t>(p, pool);
    case DType::kF16:
      return MatMulTyped<hwy::float16_t>(p, pool);
    case DType::kE4M3:
      return MatMulTyped<E4m3>(p, pool);
    default:
      HWY_ABORT("MatMul: dtype %d", static_cast<int>(p.weight->dtype()));
  }
}

template <class T>
void EmbeddingTyped(const EmbeddingParams& p, ThreadPool& pool) {
  const size_t dim = p.dim;
  const int64_t grain = std::max<int64_t>(1, 16384 / p.dim);
  pool.Run(p.num_rows, grain, [&](int64_t begin, int64_t end, int) HWY_ATTR {
    const hn::ScalableTag<float> d;
    const size_t lanes = hn::Lanes(d);
    const hn::CappedTag<float, 1> d1;
    for (int64_t r = begin; r < end; ++r) {
      const T* from = static_cast<const T*>(p.table) + size_t(p.ids[r]) * dim;
      float* to = p.out + size_t(r) * dim;
      size_t j = 0;
      for (; j + lanes <= dim; j += lanes) {
        hn::StoreU(hn::Mul(LoadWide(d, from + j), hn::Set(d, p.scale)), d, to + j);
      }
      for (; j < dim; ++j) {
        hn::StoreU(hn::Mul(LoadWide(d1, from + j), hn::Set(d1, p.scale)), d1, to + j);
      }
    }
  });
}

void EmbeddingImpl(const EmbeddingParams& p, ThreadPool& pool) {
  switch (p.dtype) {
    case DType::kF32:
      return EmbeddingTyped<float>(p, pool);
    case DType::kBF16:
      return EmbeddingTyped<hwy::bfloat16_t>(p, pool);
    case DType::kF16:
      return EmbeddingTyped<hwy::float16_t>(p, pool);
    default:
      HWY_ABORT("Embedding: dtype %d", static_cast<int>(p.dtype));
  }
}

}  // namespace
}  // namespace reprise::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace reprise::kernels::cpu {
namespace {

HWY_EXPORT(MatMulImpl);
HWY_EXPORT(EmbeddingImpl);

template <class T>
void PackTyped(const PackedMatrix::Source& source, T* destination, ThreadPool& pool) {
  constexpr size_t kPanel = PackedMatrix::kPanel;
  const size_t n = source.n, k = source.k;
  const size_t panels = (n + kPanel - 1) / kPanel;
  const T* data = static_cast<const T*>(source.data);
  pool.Run(source.blocks * panels, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t item = begin; item < end; ++item) {
      const size_t block = item / panels, column = item % panels * kPanel;
      const size_t width = std::min(kPanel, n - column);
      const T* from = data + block * n * k;
      T* to = destination + item * k * kPanel;
      if (source.transposed) {
        for (size_t i = 0; i < k; ++i) {
          std::memcpy(to + i * kPanel, from + i * n + column, width * sizeof(T));
        }
      } else {
        // 64 inputs at a time: the transposed piece stays in the first-level cache.
        for (size_t i0 = 0; i0 < k; i0 += kPanel) {
          const size_t i1 = std::min(i0 + kPanel, k);
          for (size_t j = 0; j < width; ++j) {
            for (size_t i = i0; i < i1; ++i) to[i * kPanel + j] = from[(column + j) * k + i];
          }
        }
      }
      for (size_t i = 0; i < k; ++i) {
        std::fill(to + i * kPanel + width, to + (i + 1) * kPanel, T{0});
      }
    }
  });
}

float Widen(float value) { return value; }
float Widen(hwy::bfloat16_t value) { return hwy::F32FromBF16(value); }
float Widen(hwy::float16_t value) {  // of a finite one
  uint16_t half;
  std::memcpy(&half, &value, sizeof(half));
  const uint32_t bits = (half & 0x8000u) << 16 | (half & 0x7fffu) << 13;
  float wide;
  std::memcpy(&wide, &bits, sizeof(wide));
  return wide * 0x1p112f;
}

template <class T>
void PackE4m3(const PackedMatrix::Source& source, uint8_t* destination, float* scales,
              ThreadPool& pool) {
  constexpr size_t kPanel = PackedMatrix::kPanel;
  const size_t n = source.n, k = source.k;
  const size_t panels = (n + kPanel - 1) / kPanel;
  const size_t output_stride = source.transposed ? 1 : k, input_stride = source.transposed ? n : 1;
  pool.Run(source.blocks * panels, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t item = begin; item < end; ++item) {
      const size_t block = item / panels, column = item % panels * kPanel;
      const size_t width = std::min(kPanel, n - column);
      uint8_t* const to = destination + item * k * kPanel;  // zeros
      for (size_t j = 0; j < width; ++j) {
        const T* const from =
            static_cast<const T*>(source.data) + block * n * k + (column + j) * output_stride;
        float largest = 0.0f;
        for (size_t i = 0; i < k; ++i) {
          largest = std::max(largest, std::fabs(Widen(from[i * input_stride])));
        }
        const float scale = E4m3Scale(largest);
        scales[block * n + column + j] = scale;
        for (size_t i = 0; i < k; ++i) {
          to[i * kPanel + j] = ToE4m3(Widen(from[i * input_stride]) / scale);
        }
      }
    }
  });
}

}  // namespace

void PackMatrix(const PackedMatrix::Source& source, void* destination, float* scales,
                ThreadPool& pool) {
  if (source.e4m3) {
    auto* const to = static_cast<uint8_t*>(destination);
    switch (source.dtype) {
      case DType::kF32:
        return PackE4m3<float>(source, to, scales, pool);
      case DType::kBF16:
        return PackE4m3<hwy::bfloat16_t>(source, to, scales, pool);
      case DType::kF16:
        return PackE4m3<hwy::float16_t>(source, to, scales, pool);
      default:
        HWY_ABORT("PackMatrix: dtype %d", static_cast<int>(source.dtype));
    }
  }
  if (DTypeBytes(source.dtype) == 4) {
    PackTyped(source, static_cast<uint32_t*>(destination), pool);
  } else {
    PackTyped(source, static_cast<uint16_t*>(destination), pool);
  }
}

void MatMul(const MatMulParams& params, ThreadPool& pool) {
  HWY_DYNAMIC_DISPATCH(MatMulImpl)(params, pool);
}

void Embedding(const EmbeddingParams& params, ThreadPool& pool) {
  HWY_DYNAMIC_DISPATCH(EmbeddingImpl)(params, pool);
}

}  // namespace reprise::kernels::cpu
#endif  // HWY_ONCE
