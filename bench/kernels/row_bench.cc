// The operations that are bound by memory or by elementwise arithmetic: RG-LRU, convolution, norms
// and activations, in GB/s of what they must read and write.
#include <benchmark/benchmark.h>

#include <functional>

#include "bench/kernels/bench_util.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/recurrence.h"

namespace reprise::kernels::bench {
namespace {

constexpr int kWidth = 2560;

struct Rows {
  Rows(int seqs, int per_seq) {
    for (int s = 0; s < seqs; ++s) {
      offsets.push_back(s * per_seq);
      slots.push_back(s);
      positions.push_back(77);
    }
    offsets.push_back(seqs * per_seq);
  }
  RaggedRows view() const {
    return {offsets.back(), static_cast<int32_t>(slots.size()), offsets.data(), slots.data(),
            positions.data()};
  }
  std::vector<int32_t> offsets, slots;
  std::vector<int64_t> positions;
};

void Check(const absl::Status& status) {
  if (!status.ok()) std::abort();
}

// {sequences, rows of each, threads} for all.
void BM_RgLru(benchmark::State& state) {
  const int seqs = state.range(0), rows = seqs * state.range(1), threads = state.range(2);
  const Rows ragged(seqs, state.range(1));
  const size_t floats = size_t(rows) * kWidth;
  std::vector<float> u = Numbers(floats), i = u, r = u, out(floats), scale(kWidth, -0.5f),
                     slots(size_t(seqs) * 3 * kWidth);
  RgLruParams p;
  p.rows = ragged.view();
  p.width = p.u_stride = p.gate_stride = p.out_stride = kWidth;
  p.state_slot_stride = 3 * kWidth;
  p.num_slots = seqs;
  p.u = u.data();
  p.input_gate = i.data();
  p.recurrent_gate = r.data();
  p.log_a_scale = scale.data();
  p.state = slots.data();
  p.out = out.data();
  ReportBytes(state, threads, 4.0 * (4.0 * floats + 2.0 * slots.size()), [&] {
    Check(RgLru(p, {Device::kCpu, Pool(threads)}));
  });
}

void BM_CausalConv1d(benchmark::State& state) {
  const int seqs = state.range(0), rows = seqs * state.range(1), threads = state.range(2);
  const Rows ragged(seqs, state.range(1));
  const size_t floats = size_t(rows) * kWidth;
  std::vector<float> x = Numbers(floats), out(floats), weight(4 * kWidth), bias(kWidth),
                     slots(size_t(seqs) * 3 * kWidth);
  CausalConv1dParams p;
  p.rows = ragged.view();
  p.channels = p.x_stride = p.out_stride = kWidth;
  p.width = 4;
  p.state_slot_stride = 3 * kWidth;
  p.num_slots = seqs;
  p.x = x.data();
  p.weight = weight.data();
  p.bias = bias.data();
  p.state = slots.data();
  p.out = out.data();
  ReportBytes(state, threads, 4.0 * (2.0 * floats + 2.0 * slots.size()), [&] {
    Check(CausalConv1d(p, {Device::kCpu, Pool(threads)}));
  });
}

void BM_RmsNorm(benchmark::State& state) {
  const int rows = state.range(0) * state.range(1), threads = state.range(2);
  const size_t floats = size_t(rows) * kWidth;
  std::vector<float> x = Numbers(floats), delta(floats), weight(kWidth), out(floats);
  ReportBytes(state, threads, 4.0 * 4.0 * floats, [&] {
    Check(RmsNorm({rows, kWidth, 1e-6f, 1.0f, delta.data(), weight.data(), x.data(), out.data()},
                  {Device::kCpu, Pool(threads)}));
  });
}

void Gated(benchmark::State& state, Activation activation) {
  const int rows = state.range(0) * state.range(1), dim = 3 * kWidth, threads = state.range(2);
  const size_t floats = size_t(rows) * dim;
  std::vector<float> gate = Numbers(floats), up = gate, out(floats);
  ReportBytes(state, threads, 3.0 * 4.0 * floats, [&] {
    Check(
        GatedActivation({activation, rows, dim, dim, dim, dim, gate.data(), up.data(), out.data()},
                        {Device::kCpu, Pool(threads)}));
  });
}
void BM_GeluTanh(benchmark::State& state) { Gated(state, Activation::kGeluTanh); }
void BM_Gelu(benchmark::State& state) { Gated(state, Activation::kGelu); }
void BM_Silu(benchmark::State& state) { Gated(state, Activation::kSilu); }

void BM_Softcap(benchmark::State& state) {
  const int rows = state.range(0), dim = 256000, threads = state.range(2);
  std::vector<float> x = Numbers(size_t(rows) * dim);
  ReportBytes(state, threads, 2.0 * 4.0 * x.size(), [&] {
    Check(Softcap({rows, dim, 30.0f, x.data()}, {Device::kCpu, Pool(threads)}));
  });
}

void BM_RopeTable(benchmark::State& state) {
  const int seqs = state.range(0), rows = seqs * state.range(1), threads = state.range(2);
  const Rows ragged(seqs, state.range(1));
  std::vector<float> cos(size_t(rows) * 64), sin = cos;
  ReportBytes(state, threads, 2.0 * 4.0 * cos.size(), [&] {
    Check(RopeTable({ragged.view(), 128, 10000.0f, cos.data(), sin.data()},
                    {Device::kCpu, Pool(threads)}));
  });
}

void Shapes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"seqs", "rows", "threads"})
      ->Args({1, 1, 1})
      ->Args({16, 1, 1})
      ->Args({1, 512, 1})
      ->Args({1, 512, 2})
      ->UseManualTime()
      ->MinTime(0.1)
      ->Unit(benchmark::kMicrosecond);
}

BENCHMARK(BM_RgLru)->Apply(Shapes);
BENCHMARK(BM_CausalConv1d)->Apply(Shapes);
BENCHMARK(BM_RmsNorm)->Apply(Shapes);
BENCHMARK(BM_GeluTanh)->Apply(Shapes);
BENCHMARK(BM_Gelu)->Apply(Shapes);
BENCHMARK(BM_Silu)->Apply(Shapes);
BENCHMARK(BM_Softcap)
    ->ArgNames({"rows", "", "threads"})
    ->Args({1, 0, 1})
    ->Args({16, 0, 1})
    ->Args({16, 0, 2})
    ->UseManualTime()
    ->MinTime(0.1)
    ->Unit(benchmark::kMicrosecond);
BENCHMARK(BM_RopeTable)->Apply(Shapes);

}  // namespace
}  // namespace reprise::kernels::bench

BENCHMARK_MAIN();
