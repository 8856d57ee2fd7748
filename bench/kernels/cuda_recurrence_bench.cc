// RG-LRU on CUDA, in the shape of RecurrentGemma-2B: width 2560, joined, bf16 out; and all that
// lies between the linear layers of its decode steps, as three kernels and as one.
#include <algorithm>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "bench/kernels/cuda_bench_util.h"
#include "kernels/recurrence.h"
#include "kernels/recurrent_step.h"

namespace reprise::kernels::bench {
namespace {

constexpr int kWidth = 2560;
constexpr int kGateInputs = 256;  // of a diagonal block
constexpr int kTaps = 4;

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

PackedMatrix PackGates(CudaBench& bench) {
  const std::vector<float> weights(size_t(2) * kWidth * kGateInputs, 0.01f);
  PackedMatrix::Source source;
  source.blocks = 2 * kWidth / kGateInputs;
  source.x_blocks = kWidth / kGateInputs;
  source.n = source.k = kGateInputs;
  source.data = weights.data();
  absl::StatusOr<PackedMatrix> packed = PackedMatrix::Pack(source, bench.context());
  if (!packed.ok()) std::abort();
  return *std::move(packed);
}

void BenchStep(CudaBench& bench, int seqs) {
  constexpr int kCalls = 40;  // with weights and states of their own
  const size_t count = size_t(seqs) * kWidth;
  // x, join, bf16 out; both states read and, but for h_grid, written; the gates' weights.
  const double bytes = 54.0 * count + 4.0 * kWidth * kGateInputs;
  std::vector<PackedMatrix> gates;
  std::vector<RecurrentStepParams> steps(kCalls);
  for (int i = 0; i < kCalls; ++i) gates.push_back(PackGates(bench));
  float* const gate_sums = bench.Zeros(2 * count);
  float* const u = bench.Zeros(count);
  BF16* const rounded = bench.Rounded(count);
  for (int i = 0; i < kCalls; ++i) {
    RecurrentStepParams& p = steps[i];
    p.conv.rows = p.lru.rows = bench.Rows(seqs, 1, 64 * 100 + 5);
    p.conv.channels = p.lru.width = kWidth;
    p.conv.width = kTaps;
    p.conv.x_stride = p.lru.join_stride = 2 * kWidth;
    p.conv.out_stride = p.lru.u_stride = p.lru.out_stride = kWidth;
    p.conv.state_slot_stride = (kTaps - 1) * kWidth;
    p.conv.num_slots = p.lru.num_slots = seqs;
    p.lru.join = bench.Floats(2 * count);
    p.conv.x = p.lru.join + kWidth;
    p.conv.weight = bench.Floats(kTaps * kWidth);
    p.conv.bias = bench.Floats(kWidth);
    p.conv.state = bench.Zeros(size_t(seqs) * (kTaps - 1) * kWidth);
    p.conv.out = u;
    p.conv.out_bf16 = rounded;
    p.gates.num_rows = seqs;
    p.gates.x_stride = kWidth;
    p.gates.out_stride = p.lru.gate_stride = 2 * kWidth;
    p.gates.x_bf16 = rounded;
    p.gates.weight = &gates[i];
    p.gates.bias = bench.Floats(2 * kWidth);
    p.gates.out = gate_sums;
    p.lru.state_slot_stride = 3 * kWidth;
    p.lru.u = u;
    p.lru.input_gate = gate_sums;
    p.lru.recurrent_gate = gate_sums + kWidth;
    p.lru.log_a_scale = bench.Upload(std::vector<float>(kWidth, -0.5f));
    p.lru.state = bench.Zeros(size_t(seqs) * 3 * kWidth);
    p.lru.out_bf16 = bench.Rounded(count);
  }
  const double apart = bench.Microseconds(kCalls, [&](int i) {
    absl::Status status = CausalConv1d(steps[i].conv, bench.context());
    if (status.ok()) status = MatMul(steps[i].gates, bench.context());
    if (status.ok()) status = RgLru(steps[i].lru, bench.context());
    return status;
  });
  const double together =
      bench.Microseconds(kCalls, [&](int i) { return RecurrentStep(steps[i], bench.context()); });
  const std::string name = std::to_string(seqs) + " x 1";
  bench.Report("convolution, gates, RgLru, " + name, apart, bytes);
  bench.Report("RecurrentStep, " + name, together, bytes);
}

}  // namespace
}  // namespace reprise::kernels::bench

// With two arguments: sequences, rows of each. With one: sequences of a decode step.
int main(int argc, char** argv) {
  using namespace reprise::kernels::bench;
  if (argc == 2) {
    CudaBench bench;
    BenchStep(bench, std::atoi(argv[1]));
    return 0;
  }
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
  for (const int seqs : {1, 8, 16, 32, 64, 128, 256}) {
    CudaBench bench;
    BenchStep(bench, seqs);
  }
  return 0;
}
