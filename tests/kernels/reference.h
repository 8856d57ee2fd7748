// What the kernels compute, written down once more in double precision and plain loops. Sequences
// are whole: row t is position t. Dense rows, no strides. Slow.
#ifndef REPRISE_TESTS_KERNELS_REFERENCE_H_
#define REPRISE_TESTS_KERNELS_REFERENCE_H_

#include <cstdint>
#include <vector>

#include "kernels/elementwise.h"
#include "kernels/kernels.h"

namespace reprise::kernels::reference {

using Values = std::vector<double>;

// Element `index` of a tensor of float32, bf16 or f16, and the nearest 2-byte value of a float.
double ReadElement(const void* data, DType dtype, int64_t index);
uint16_t ToBF16(float value);
uint16_t ToF16(float value);

// A finite e4m3 value from its bits; the bits of the nearest one, looked up among all of them, ties
// to the even one.
double E4m3Value(uint8_t bits);
uint8_t NearestE4m3(double value);

// x [rows, blocks * k], w [blocks, n, k], bias [blocks * n] or empty -> [rows, blocks * n]
Values MatMul(int rows, int blocks, int n, int k, const Values& x, const Values& w,
              const Values& bias);

// x [rows, dim] -> [rows, dim]
Values RmsNorm(int rows, int dim, double eps, double weight_offset, const Values& x,
               const Values& weight);

double Activate(Activation activation, double x);

// x [tokens, channels], weight [width, channels], bias [channels] or empty -> [tokens, channels]
Values CausalConv1d(int tokens, int channels, int width, const Values& x, const Values& weight,
                    const Values& bias);

// The plain recurrence h = a h + m i u, without a grid. u and gates [tokens, width].
Values RgLru(int tokens, int width, const Values& u, const Values& input_gate,
             const Values& recurrent_gate, const Values& log_a_scale);

// x [tokens, heads, head_dim] at positions start, start + 1, ...
Values Rope(int tokens, int heads, int head_dim, int rotary_dims, double theta, int64_t start,
            const Values& x);

// q [tokens, heads, head_dim], k and v [tokens, kv_heads, head_dim] -> as q
Values WindowAttention(int tokens, int heads, int kv_heads, int head_dim, int window, double scale,
                       const Values& q, const Values& k, const Values& v);

}  // namespace reprise::kernels::reference

#endif  // REPRISE_TESTS_KERNELS_REFERENCE_H_
