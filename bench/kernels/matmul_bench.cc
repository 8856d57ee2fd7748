// MatMul beside OpenBLAS and oneDNN on the same shapes and threads, in turns within one process,
// and beside the measured memory bandwidth for few rows. Unset OPENBLAS_CORETYPE for a fair
// comparison and set OMP_WAIT_POLICY=passive, or oneDNN's threads go on spinning while others are
// timed.
#include <benchmark/benchmark.h>
#include <cblas.h>
#include <dnnl.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <limits>
#include <string>
#include <thread>

#include "bench/kernels/bench_util.h"
#include "kernels/matmul.h"

extern "C" void openblas_set_num_threads(int threads);
extern "C" char* openblas_get_corename(void);

namespace reprise::kernels::bench {
namespace {

struct Product {
  Product(int rows, int k, int n, DType dtype, int threads)
      : rows(rows),
        k(k),
        n(n),
        threads(threads),
        x(Numbers(size_t(rows) * k)),
        w(Numbers(size_t(n) * k)),
        out(size_t(rows) * n) {
    const std::vector<uint16_t> narrow = BF16Numbers(size_t(n) * k);
    PackedMatrix::Source source;
    source.dtype = dtype;
    source.n = n;
    source.k = k;
    source.data = dtype == DType::kF32 ? static_cast<const void*>(w.data()) : narrow.data();
    packed = PackedMatrix::Pack(source, {Device::kCpu, Pool(threads)}).value();
  }
  void Ours() {
    MatMulParams p;
    p.num_rows = rows;
    p.x_stride = k;
    p.out_stride = n;
    p.x = x.data();
    p.weight = &packed;
    p.out = out.data();
    if (!MatMul(p, {Device::kCpu, Pool(threads)}).ok()) std::abort();
  }
  void OpenBlas() {
    openblas_set_num_threads(threads);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, n, k, 1.0f, x.data(), k, w.data(), k,
                0.0f, out.data(), n);
  }
  void OneDnn() {
    omp_set_num_threads(threads);
    dnnl_sgemm('N', 'T', rows, n, k, 1.0f, x.data(), k, w.data(), k, 0.0f, out.data(), n);
  }
  double flops() const { return 2.0 * rows * k * n; }

  int rows, k, n, threads;
  std::vector<float> x, w, out;
  PackedMatrix packed;
};

double Timed(const std::function<void()>& fn) { return BestSeconds(1, fn); }

// Threads of the other libraries spin for a while after their work.
void Settle() { std::this_thread::sleep_for(std::chrono::milliseconds(30)); }

void BM_MatMulManyRows(benchmark::State& state) {
  Product product(state.range(0), state.range(1), state.range(2),
                  state.range(3) == 2 ? DType::kBF16 : DType::kF32, state.range(4));
  double ours = std::numeric_limits<double>::infinity(), openblas = ours, onednn = ours;
  for (auto _ : state) {
    Settle();
    double first = std::numeric_limits<double>::infinity();
    for (int i = 0; i < 4; ++i) first = std::min(first, Timed([&] { product.Ours(); }));
    ours = std::min(ours, first);
    Settle();
    for (int i = 0; i < 4; ++i) openblas = std::min(openblas, Timed([&] { product.OpenBlas(); }));
    Settle();
    for (int i = 0; i < 4; ++i) onednn = std::min(onednn, Timed([&] { product.OneDnn(); }));
    state.SetIterationTime(first);
  }
  state.counters["GFLOP/s"] = product.flops() / ours * 1e-9;
  state.counters["openblas"] = product.flops() / openblas * 1e-9;
  state.counters["onednn"] = product.flops() / onednn * 1e-9;
  state.counters["of_openblas"] = openblas / ours;
  state.counters["of_onednn"] = onednn / ours;
}

void BM_MatMulFewRows(benchmark::State& state) {
  const int threads = state.range(4);
  Product product(state.range(0), state.range(1), state.range(2),
                  state.range(3) == 2 ? DType::kBF16 : DType::kF32, threads);
  ReportBytes(state, threads, product.packed.bytes(), [&] { product.Ours(); });
}

// {rows, k, n, bytes per weight, threads}
void ManyShapes(benchmark::internal::Benchmark* benchmark) {
  for (const int threads : {1, 2}) {
    for (const int bytes : {4, 2}) {
      benchmark->Args({256, 384, 1152, bytes, threads});
      benchmark->Args({64, 2560, 2560, bytes, threads});
      benchmark->Args({512, 2560, 7680, bytes, threads});
    }
    benchmark->Args({16, 2560, 7680, 2, threads});
    benchmark->Args({2048, 1024, 1024, 4, threads});
  }
}

void FewShapes(benchmark::internal::Benchmark* benchmark) {
  for (const int threads : {1, 2}) {
    for (const int bytes : {4, 2}) {
      for (const int rows : {1, 2, 4, 6, 8}) benchmark->Args({rows, 2560, 15360, bytes, threads});
      benchmark->Args({1, 384, 1152, bytes, threads});
    }
  }
}

BENCHMARK(BM_MatMulManyRows)
    ->Apply(ManyShapes)
    ->ArgNames({"rows", "k", "n", "bytes", "threads"})
    ->UseManualTime()
    ->Iterations(6)
    ->Unit(benchmark::kMillisecond);
BENCHMARK(BM_MatMulFewRows)
    ->Apply(FewShapes)
    ->ArgNames({"rows", "k", "n", "bytes", "threads"})
    ->UseManualTime()
    ->MinTime(0.2)
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace reprise::kernels::bench

int main(int argc, char** argv) {
  using reprise::kernels::bench::ReadBandwidth;
  benchmark::Initialize(&argc, argv);
  std::printf("OpenBLAS core type %s; memory reads %.1f GB/s with 1 thread, %.1f with 2\n",
              openblas_get_corename(), ReadBandwidth(1) * 1e-9, ReadBandwidth(2) * 1e-9);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
