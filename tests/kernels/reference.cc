#include "tests/kernels/reference.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

namespace reprise::kernels::reference {
namespace {

double Sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

}  // namespace

double ReadElement(const void* data, DType dtype, int64_t index) {
  if (dtype == DType::kF32) return static_cast<const float*>(data)[index];
  const uint16_t bits = static_cast<const uint16_t*>(data)[index];
  if (dtype == DType::kBF16) {
    const uint32_t wide = uint32_t{bits} << 16;
    float value;
    std::memcpy(&value, &wide, sizeof(value));
    return value;
  }
  if (dtype != DType::kF16) std::abort();
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == 31) return mantissa != 0 ? std::nan("") : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(mantissa + 1024, exponent - 25);
}

uint16_t ToBF16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

uint16_t ToF16(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double size = std::fabs(double{value});
  if (size >= 65520.0) return sign | 0x7c00;
  int exponent = 0;
  std::frexp(size, &exponent);
  exponent = std::max(exponent, -13);  // below: subnormal
  const auto steps = static_cast<int>(std::nearbyint(std::ldexp(size, 11 - exponent)));
  // `steps` counts units of 2^(exponent - 11); 1024..2048 where normal. A carry to 2048 moves on to
  // the next exponent by itself.
  return static_cast<uint16_t>(sign | (steps + (exponent + 13) * 1024));
}

double E4m3Value(uint8_t bits) {
  const int exponent = bits >> 3 & 15, mantissa = bits & 7;
  const double sign = (bits & 0x80) != 0 ? -1.0 : 1.0;
  if (exponent == 0) return sign * std::ldexp(mantissa, -9);
  return sign * std::ldexp(mantissa + 8, exponent - 10);
}

uint8_t NearestE4m3(double value) {
  int best = 0;
  double best_distance = INFINITY;
  for (int bits = 0; bits < 0x7f; ++bits) {
    const double distance = std::fabs(std::fabs(value) - E4m3Value(static_cast<uint8_t>(bits)));
    if (distance > best_distance || (distance == best_distance && bits % 2 != 0)) continue;
    best = bits;
    best_distance = distance;
  }
  return static_cast<uint8_t>(best | (std::signbit(value) ? 0x80 : 0));
}

Values MatMul(int rows, int blocks, int n, int k, const Values& x, const Values& w,
              const Values& bias) {
  Values out(size_t(rows) * blocks * n);
  for (int r = 0; r < rows; ++r) {
    for (int b = 0; b < blocks; ++b) {
      for (int j = 0; j < n; ++j) {
        double sum = 0.0;
        for (int i = 0; i < k; ++i) {
          sum += x[size_t(r) * blocks * k + b * k + i] * w[(size_t(b) * n + j) * k + i];
        }
        out[size_t(r) * blocks * n + b * n + j] = sum + (bias.empty() ? 0.0 : bias[b * n + j]);
      }
    }
  }
  return out;
}

Values RmsNorm(int rows, int dim, double eps, double weight_offset, const Values& x,
               const Values& weight) {
  Values out(x.size());
  for (int r = 0; r < rows; ++r) {
    const double* row = x.data() + size_t(r) * dim;
    double sum = 0.0;
    for (int i = 0; i < dim; ++i) sum += row[i] * row[i];
    const double inverse = 1.0 / std::sqrt(sum / dim + eps);
    for (int i = 0; i < dim; ++i) {
      out[size_t(r) * dim + i] = row[i] * inverse * (weight_offset + weight[i]);
    }
  }
  return out;
}

double Activate(Activation activation, double x) {
  switch (activation) {
    case Activation::kGeluTanh:
      // 0.5 (1 + tanh u) = sigmoid(2 u); the right side keeps its digits for u < 0.
      return x * Sigmoid(2.0 * std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x));
    case Activation::kGelu:
      return 0.5 * x * std::erfc(-x * std::sqrt(0.5));
    case Activation::kSilu:
      return x * Sigmoid(x);
    case Activation::kRelu:
      return std::max(x, 0.0);
  }
  std::abort();
}

Values CausalConv1d(int tokens, int channels, int width, const Values& x, const Values& weight,
                    const Values& bias) {
  Values out(size_t(tokens) * channels);
  for (int t = 0; t < tokens; ++t) {
    for (int c = 0; c < channels; ++c) {
      double sum = bias.empty() ? 0.0 : bias[c];
      for (int j = 0; j < width; ++j) {
        const int from = t - width + 1 + j;
        if (from >= 0) sum += weight[size_t(j) * channels + c] * x[size_t(from) * channels + c];
      }
      out[size_t(t) * channels + c] = sum;
    }
  }
  return out;
}

Values RgLru(int tokens, int width, const Values& u, const Values& input_gate,
             const Values& recurrent_gate, const Values& log_a_scale) {
  Values out(size_t(tokens) * width);
  for (int c = 0; c < width; ++c) {
    double h = 0.0;
    for (int t = 0; t < tokens; ++t) {
      const size_t at = size_t(t) * width + c;
      const double log_a = log_a_scale[c] * Sigmoid(recurrent_gate[at]);
      const double a = t == 0 ? 0.0 : std::exp(log_a);
      const double m = t == 0 ? 1.0 : std::sqrt(-std::expm1(2.0 * log_a));
      h = a * h + m * Sigmoid(input_gate[at]) * u[at];
      out[at] = h;
    }
  }
  return out;
}

Values Rope(int tokens, int heads, int head_dim, int rotary_dims, double theta, int64_t start,
            const Values& x) {
  Values out = x;
  const int half = rotary_dims / 2;
  for (int t = 0; t < tokens; ++t) {
    for (int h = 0; h < heads; ++h) {
      double* row = out.data() + (size_t(t) * heads + h) * head_dim;
      for (int i = 0; i < half; ++i) {
        const double angle = (start + t) * std::pow(theta, -2.0 * i / rotary_dims);
        const double a = row[i], b = row[i + half];
        row[i] = a * std::cos(angle) - b * std::sin(angle);
        row[i + half] = b * std::cos(angle) + a * std::sin(angle);
      }
    }
  }
  return out;
}

Values WindowAttention(int tokens, int heads, int kv_heads, int head_dim, int window, double scale,
                       const Values& q, const Values& k, const Values& v) {
  Values out(q.size());
  const int group = heads / kv_heads;
  for (int t = 0; t < tokens; ++t) {
    for (int h = 0; h < heads; ++h) {
      const double* query = q.data() + (size_t(t) * heads + h) * head_dim;
      const int first = std::max(0, t - window);
      std::vector<double> weights;
      double max = -INFINITY, sum = 0.0;
      for (int s = first; s <= t; ++s) {
        const double* key = k.data() + (size_t(s) * kv_heads + h / group) * head_dim;
        double dot = 0.0;
        for (int d = 0; d < head_dim; ++d) dot += query[d] * key[d];
        weights.push_back(scale * dot);
        max = std::max(max, weights.back());
      }
      for (double& weight : weights) sum += weight = std::exp(weight - max);
      for (int s = first; s <= t; ++s) {
        const double* value = v.data() + (size_t(s) * kv_heads + h / group) * head_dim;
        for (int d = 0; d < head_dim; ++d) {
          out[(size_t(t) * heads + h) * head_dim + d] += weights[s - first] / sum * value[d];
        }
      }
    }
  }
  return out;
}

}  // namespace reprise::kernels::reference
