// Rope, CausalConv1d and Softcap on CUDA, in the shapes of RecurrentGemma-2B.
#include <algorithm>
#include <string>
#include <vector>

#include "bench/kernels/cuda_bench_util.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/recurrence.h"

namespace reprise::kernels::bench {
namespace {

constexpr int kDim = 2560, kHeads = 10, kHeadDim = 256, kRotary = 128, kVocab = 256000;

// Calls that together leave the L2 cache behind.
int Calls(double bytes) { return static_cast<int>(std::clamp(400e6 / bytes, 2.0, 200.0)); }

void BenchRope(CudaBench& bench, int rows) {
  const int heads = kHeads + 2;  // queries, key, value
  const double bytes = rows * (6.0 * heads * kHeadDim + 4.0 * kRotary);
  const int calls = Calls(bytes);
  const size_t count = size_t(rows) * heads * kHeadDim;
  RopeParams p;
  p.num_rows = rows;
  p.heads = kHeads + 1;
  p.plain_heads = 1;
  p.head_dim = kHeadDim;
  p.rotary_dims = kRotary;
  p.x_stride = p.out_stride = heads * kHeadDim;
  p.cos = bench.Floats(size_t(rows) * kRotary / 2);
  p.sin = bench.Floats(size_t(rows) * kRotary / 2);
  float* const x = bench.Floats(count * calls);
  BF16* const out = bench.Rounded(count * calls);
  const double time = bench.Microseconds(calls, [&](int i) {
    p.x = x + i * count;
    p.out_bf16 = out + i * count;
    return Rope(p, bench.context());
  });
  bench.Report("Rope, rows " + std::to_string(rows), time, bytes);
}

void BenchRopeTable(CudaBench& bench, int rows) {
  RopeTableParams p;
  p.rows = bench.Rows(1, rows, 5000);
  p.rotary_dims = kRotary;
  p.cos = bench.Zeros(size_t(rows) * kRotary / 2);
  p.sin = bench.Zeros(size_t(rows) * kRotary / 2);
  const double time = bench.Microseconds(20, [&](int) { return RopeTable(p, bench.context()); });
  bench.Report("RopeTable, rows " + std::to_string(rows), time, 4.0 * rows * kRotary);
}

void BenchConv(CudaBench& bench, int seqs, int rows) {
  const size_t count = size_t(seqs) * rows * kDim;
  // x, out, its rounded copy; the state read and written.
  const double bytes = 10.0 * count + 24.0 * seqs * kDim;
  const int calls = Calls(bytes);
  CausalConv1dParams p;
  p.channels = kDim;
  p.width = 4;
  p.x_stride = p.out_stride = kDim;
  p.state_slot_stride = 3 * kDim;
  p.num_slots = seqs * calls;
  p.weight = bench.Floats(4 * kDim);
  p.bias = bench.Floats(kDim);
  p.state = bench.Zeros(size_t(p.num_slots) * 3 * kDim);
  const float* const x = bench.Floats(count * calls);
  float* const out = bench.Zeros(count * calls);
  BF16* const rounded = bench.Rounded(count * calls);
  std::vector<RaggedRows> steps;
  for (int i = 0; i < calls; ++i) steps.push_back(bench.Rows(seqs, rows, 5000, i * seqs));
  const double time = bench.Microseconds(calls, [&](int i) {
    p.rows = steps[i];
    p.x = x + i * count;
    p.out = out + i * count;
    p.out_bf16 = rounded + i * count;
    return CausalConv1d(p, bench.context());
  });
  bench.Report("CausalConv1d, " + std::to_string(seqs) + " x " + std::to_string(rows), time, bytes);
}

void BenchSoftcap(CudaBench& bench, int rows) {
  const double bytes = 8.0 * rows * kVocab;
  const int calls = Calls(bytes);
  const size_t count = size_t(rows) * kVocab;
  float* const x = bench.Floats(count * calls);
  const double time = bench.Microseconds(calls, [&](int i) {
    return Softcap({rows, kVocab, 30.0f, x + i * count}, bench.context());
  });
  bench.Report("Softcap of logits, rows " + std::to_string(rows), time, bytes);
}

}  // namespace
}  // namespace reprise::kernels::bench

int main() {
  using namespace reprise::kernels::bench;
  CudaBench bench;
  for (const int rows : {1, 64, 512, 8192}) BenchRope(bench, rows);
  for (const int rows : {1, 8192}) BenchRopeTable(bench, rows);
  BenchConv(bench, 1, 1);
  BenchConv(bench, 64, 1);
  BenchConv(bench, 256, 1);
  BenchConv(bench, 1, 512);
  BenchConv(bench, 1, 8192);
  for (const int rows : {1, 64}) BenchSoftcap(bench, rows);
  return 0;
}
