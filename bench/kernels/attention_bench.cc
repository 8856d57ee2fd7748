// WindowAttention in prefill (operations against a multiply-add ceiling measured here) and in
// decode (bytes of keys and values against the measured memory bandwidth).
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "bench/kernels/bench_util.h"
#include "kernels/attention.h"
#include "kernels/matmul.h"

namespace reprise::kernels::bench {
namespace {

// RecurrentGemma-2B: 10 heads of 256 that share one key and value head, window 2048.
struct Setup {
  Setup(int seqs, int rows_per_seq, int64_t position, int heads, int head_dim, int window)
      : num_rows(seqs * rows_per_seq),
        ring_blocks(WindowBlocks(window)),
        heads(heads),
        head_dim(head_dim),
        window(window) {
    for (int s = 0; s < seqs; ++s) {
      offsets.push_back(s * rows_per_seq);
      slots.push_back(s);
      positions.push_back(position);
    }
    offsets.push_back(num_rows);
    q = Numbers(size_t(num_rows) * heads * head_dim);
    k = Numbers(size_t(num_rows) * head_dim);
    v = k;
    out.resize(q.size());
    slot_floats = int64_t{ring_blocks} * head_dim * kGridTokens;
    // As in the model: rings lie in a Buffer, with its huge pages.
    for (Buffer* ring : {&k_ring, &v_ring}) {
      *ring = Buffer::Allocate(Device::kCpu, seqs * slot_floats * sizeof(float)).value();
      const std::vector<float> numbers = Numbers(seqs * slot_floats);
      std::copy(numbers.begin(), numbers.end(), ring->as<float>());
    }
  }
  void Run(int threads) {
    WindowAttentionParams p;
    p.rows = {num_rows, static_cast<int32_t>(slots.size()), offsets.data(), slots.data(),
              positions.data()};
    p.heads = heads;
    p.kv_heads = 1;
    p.head_dim = head_dim;
    p.window = window;
    p.ring_blocks = ring_blocks;
    p.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    p.q_stride = p.out_stride = int64_t{heads} * head_dim;
    p.k_stride = p.v_stride = head_dim;
    p.k_slot_stride = p.v_slot_stride = slot_floats;
    p.num_slots = slots.size();
    p.q = q.data();
    p.k = k.data();
    p.v = v.data();
    p.k_ring = k_ring.as<float>();
    p.v_ring = v_ring.as<float>();
    p.out = out.data();
    if (!WindowAttention(p, {Device::kCpu, Pool(threads)}).ok()) std::abort();
  }
  // Keys that the rows see, summed over rows.
  double VisibleKeys() const {
    double sum = 0.0;
    for (size_t s = 0; s < slots.size(); ++s) {
      for (int r = 0; r < offsets[s + 1] - offsets[s]; ++r) {
        sum += std::min<double>(positions[s] + r, window) + 1.0;
      }
    }
    return sum;
  }

  int num_rows, ring_blocks, heads, head_dim, window;
  int64_t slot_floats;
  std::vector<int32_t> offsets, slots;
  std::vector<int64_t> positions;
  std::vector<float> q, k, v, out;
  Buffer k_ring, v_ring;
};

// What MatMul reaches on a shape that suits it stands for the peak of multiply-adds.
double MultiplyAddCeiling(int threads) {
  const std::vector<float> w = Numbers(512 * 512), x = Numbers(480 * 512);
  std::vector<float> out(480 * 512);
  const Context context{Device::kCpu, Pool(threads)};
  const PackedMatrix packed =
      PackedMatrix::Pack({DType::kF32, 1, 512, 512, false, w.data()}, context).value();
  MatMulParams p;
  p.num_rows = 480;
  p.x_stride = p.out_stride = 512;
  p.x = x.data();
  p.weight = &packed;
  p.out = out.data();
  return 2.0 * 480 * 512 * 512 / BestSeconds(30, [&] { (void)MatMul(p, context).ok(); });
}

// {rows, first position, threads}
void BM_Prefill(benchmark::State& state) {
  const int threads = state.range(2);
  Setup setup(1, state.range(0), state.range(1), 10, 256, 2048);
  setup.Run(threads);
  double best = std::numeric_limits<double>::infinity();
  double ceiling = MultiplyAddCeiling(threads);
  for (auto _ : state) {
    const double seconds = BestSeconds(1, [&] { setup.Run(threads); });
    best = std::min(best, seconds);
    state.SetIterationTime(seconds);
  }
  ceiling = std::max(ceiling, MultiplyAddCeiling(threads));
  const double rate = 4.0 * setup.VisibleKeys() * setup.heads * setup.head_dim / best;
  state.counters["GFLOP/s"] = rate * 1e-9;
  state.counters["of_matmul"] = rate / ceiling;
  state.counters["us/token"] = best * 1e6 / setup.num_rows;
}

// {sequences, position, threads}
void BM_Decode(benchmark::State& state) {
  const int threads = state.range(2);
  Setup setup(state.range(0), 1, state.range(1), 10, 256, 2048);
  const double bytes = setup.VisibleKeys() * setup.head_dim * 2 * sizeof(float);
  ReportBytes(state, threads, bytes, [&] { setup.Run(threads); });
}

BENCHMARK(BM_Prefill)
    ->Args({512, 0, 1})
    ->Args({512, 4096, 1})
    ->Args({512, 4096, 2})
    ->Args({64, 4096, 1})
    ->Args({7, 4096, 1})
    ->ArgNames({"rows", "position", "threads"})
    ->UseManualTime()
    ->Iterations(10)
    ->Unit(benchmark::kMillisecond);
BENCHMARK(BM_Decode)
    ->Args({1, 4096, 1})
    ->Args({1, 4096, 2})
    ->Args({16, 4096, 1})
    ->Args({16, 4096, 2})
    ->Args({16, 100, 1})
    ->ArgNames({"seqs", "position", "threads"})
    ->UseManualTime()
    ->Iterations(50)
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace reprise::kernels::bench

BENCHMARK_MAIN();
