// Window attention on CUDA, in the shape of RecurrentGemma-2B: 10 heads of 256, one kv head, a
// window of 2048.
#include <algorithm>
#include <cstdlib>
#include <string>
#include <tuple>
#include <vector>

#include "bench/kernels/cuda_bench_util.h"
#include "kernels/attention.h"
#include "kernels/attention_step.h"

namespace reprise::kernels::bench {
namespace {

constexpr int kHeads = 10, kHeadDim = 256, kWindow = 2048;

// A decode step's rotation and attention, as two operations and as one. `attention`: of all steps,
// each of which has rows of its own.
void BenchStep(CudaBench& bench, WindowAttentionParams attention,
               const std::vector<RaggedRows>& steps, double bytes) {
  const int seqs = steps[0].num_rows, width = (kHeads + 2) * kHeadDim;
  AttentionStepParams p;
  p.rope.num_rows = seqs;
  p.rope.heads = kHeads + 1;
  p.rope.plain_heads = 1;
  p.rope.head_dim = kHeadDim;
  p.rope.rotary_dims = kHeadDim / 2;
  p.rope.x_stride = p.rope.out_stride = width;
  p.rope.cos = bench.Floats(size_t(seqs) * kHeadDim / 4);
  p.rope.sin = bench.Floats(size_t(seqs) * kHeadDim / 4);
  p.rope.x = bench.Floats(size_t(seqs) * width);
  p.rope.out_bf16 = bench.Rounded(size_t(seqs) * width);
  attention.q_stride = attention.k_stride = attention.v_stride = width;
  attention.q_bf16 = p.rope.out_bf16;
  attention.k_bf16 = attention.q_bf16 + kHeads * kHeadDim;
  attention.v_bf16 = attention.k_bf16 + kHeadDim;
  p.attention = attention;
  const int calls = static_cast<int>(steps.size());
  const auto report = [&](const std::string& name, auto op) {
    const double time = bench.Microseconds(calls, [&](int i) {
      p.attention.rows = steps[i];
      return op();
    });
    bench.Report(name + ", " + std::to_string(seqs) + " x 1", time, bytes);
  };
  report("Rope, WindowAttention", [&] {
    absl::Status status = Rope(p.rope, bench.context());
    if (status.ok()) status = WindowAttention(p.attention, bench.context());
    return status;
  });
  p.attention.rows = steps[0];
  if (!CanAttentionStep(p, bench.context())) return;
  report("AttentionStep", [&] { return AttentionStep(p, bench.context()); });
}

void BenchAttention(CudaBench& bench, int seqs, int rows, int64_t start) {
  const int64_t blocks = WindowBlocks(kWindow), total = int64_t{seqs} * rows;
  double keys = 0.0;  // seen by all rows of a sequence
  for (int64_t t = start; t < start + rows; ++t) keys += 1.0 + std::min<int64_t>(t, kWindow);
  const double operations = 4.0 * keys * seqs * kHeads * kHeadDim;
  // Keys and values once, queries and output.
  const double old_keys = static_cast<double>(std::min<int64_t>(start, kWindow));
  const double bytes = seqs * (4.0 * kHeadDim * (old_keys + rows) + 4.0 * kHeads * kHeadDim * rows);
  const int calls = static_cast<int>(std::clamp(300e6 / bytes, 1.0, 100.0));
  const int64_t slot = blocks * kGridTokens * kHeadDim;
  WindowAttentionParams p;
  p.heads = kHeads;
  p.kv_heads = 1;
  p.head_dim = kHeadDim;
  p.window = kWindow;
  p.ring_blocks = static_cast<int>(blocks);
  p.scale = 1.0f / 16.0f;
  p.q_stride = p.out_stride = kHeads * kHeadDim;
  p.k_stride = p.v_stride = kHeadDim;
  p.k_slot_stride = p.v_slot_stride = slot;
  p.num_slots = seqs * calls;
  p.q_bf16 = bench.Rounded(total * kHeads * kHeadDim);
  p.k_bf16 = bench.Rounded(total * kHeadDim);
  p.v_bf16 = bench.Rounded(total * kHeadDim);
  p.k_ring_bf16 = bench.Rounded(p.num_slots * slot);
  p.v_ring_bf16 = bench.Rounded(p.num_slots * slot);
  p.out_bf16 = bench.Rounded(total * kHeads * kHeadDim);
  std::vector<RaggedRows> steps;
  for (int i = 0; i < calls; ++i) steps.push_back(bench.Rows(seqs, rows, start, i * seqs));
  const double time = bench.Microseconds(calls, [&](int i) {
    p.rows = steps[i];
    return WindowAttention(p, bench.context());
  });
  bench.Report("WindowAttention, " + std::to_string(seqs) + " x " + std::to_string(rows) +
                   " from " + std::to_string(start),
               time, bytes, operations);
  if (rows == 1) BenchStep(bench, p, steps, bytes);
}

}  // namespace
}  // namespace reprise::kernels::bench

// With three arguments: sequences, rows of each, the position of the first.
int main(int argc, char** argv) {
  using namespace reprise::kernels::bench;
  if (argc == 4) {
    CudaBench bench;
    BenchAttention(bench, std::atoi(argv[1]), std::atoi(argv[2]), std::atoi(argv[3]));
    return 0;
  }
  for (const auto& [seqs, rows, start] : {std::tuple{1, 1, 100},
                                          {1, 1, 5000},
                                          {8, 1, 5000},
                                          {16, 1, 5000},
                                          {64, 1, 5000},
                                          {128, 1, 5000},
                                          {256, 1, 5000},
                                          {512, 1, 5000},
                                          {64, 5, 5000},
                                          {1, 16, 5000},
                                          {1, 64, 5000},
                                          {1, 256, 5000},
                                          {1, 512, 5000},
                                          {1, 2048, 0},
                                          {1, 2048, 5000},
                                          {1, 8192, 0},
                                          {4, 2048, 5000}}) {
    CudaBench bench;
    BenchAttention(bench, seqs, rows, start);
  }
  return 0;
}
