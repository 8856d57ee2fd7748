// RG-LRU on CUDA, in the shape of RecurrentGemma-2B: width 2560, joined, bf16 out.
#include <algorithm>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "bench/kernels/cuda_bench_util.h"
#include "kernels/recurrence.h"

namespace reprise::kernels::bench {
namespace {

constexpr int kWidth = 2560;

void BenchRgLru(CudaBench& bench, int seqs, int rows) {
  const size_t count = size_t(seqs) * rows * kWidth;
  // u, two gates, join, bf16 out; the state read and, but for h_grid, written.
  const double bytes = 18.0 * count + 20.0 * seqs * kWidth;
  const int calls = static_cast<int>(std::clamp(400e6 / bytes, 1.0, 200.0));
  RgLruParams p;
  p.width = kWidth;
  p.u_stride = p.gate_stride = p.join_stride = p.out_stride = kWidth;
  p.state_slot_stride = 3 * kWidth;
  p.num_slots = seqs * calls;
  const float* const u = bench.Floats(count * calls);
  const float* const input_gate = bench.Floats(count * calls);
  const float* const recurrent_gate = bench.Floats(count * calls);
  const float* const join = bench.Floats(count * calls);
  p.log_a_scale = bench.Upload(std::vector<float>(kWidth, -0.5f));
  p.state = bench.Zeros(size_t(p.num_slots) * 3 * kWidth);
  BF16* const out = bench.Rounded(count * calls);
  std::vector<RaggedRows> steps;
  for (int i = 0; i < calls; ++i) steps.push_back(bench.Rows(seqs, rows, 64 * 100 + 5, i * seqs));
  const double time = bench.Microseconds(calls, [&](int i) {
    p.rows = steps[i];
    p.u = u + i * count;
    p.input_gate = input_gate + i * count;
    p.recurrent_gate = recurrent_gate + i * count;
    p.join = join + i * count;
    p.out_bf16 = out + i * count;
    return RgLru(p, bench.context());
  });
  bench.Report("RgLru, " + std::to_string(seqs) + " x " + std::to_string(rows), time, bytes);
}

}  // namespace
}  // namespace reprise::kernels::bench

// With two arguments: sequences, rows of each.
int main(int argc, char** argv) {
  using namespace reprise::kernels::bench;
  if (argc == 3) {
    CudaBench bench;
    BenchRgLru(bench, std::atoi(argv[1]), std::atoi(argv[2]));
    return 0;
  }
  for (const auto& [seqs, rows] : {std::pair{1, 1},
                                   {16, 1},
                                   {64, 1},
                                   {256, 1},
                                   {1024, 1},
                                   {64, 8},
                                   {1, 64},
                                   {1, 512},
                                   {1, 2048},
                                   {1, 8192},
                                   {1, 131072},
                                   {64, 512}}) {
    CudaBench bench;  // frees what the case before had
    BenchRgLru(bench, seqs, rows);
  }
  return 0;
}
