#include "bench/kernels/cuda_bench_util.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <utility>

#include "bench/must.h"

namespace reprise::kernels::bench {
namespace {

constexpr size_t kBlockNumbers = size_t{1} << 22;

using reprise::bench::Must;

}  // namespace

CudaBench::CudaBench() {
  queue_ = Must(DeviceQueue::Create());
  std::minstd_rand random(1);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  float_block_.resize(kBlockNumbers * 4);
  rounded_block_.resize(kBlockNumbers * 2);
  for (size_t i = 0; i < kBlockNumbers; ++i) {
    const float value = uniform(random);
    std::memcpy(float_block_.data() + 4 * i, &value, 4);
    std::memcpy(rounded_block_.data() + 2 * i, float_block_.data() + 4 * i + 2, 2);  // cut off
  }
  const size_t bytes = size_t{1} << 30;
  void* const from = Allocate(bytes);
  void* const to = Allocate(bytes);
  const double microseconds = Microseconds(4, [&](int) { return queue_->Copy(to, from, bytes); });
  copy_bytes_per_second_ = 2.0 * bytes / microseconds * 1e6;
  static bool told = false;
  if (std::exchange(told, true)) return;
  std::printf("%s, copy of 1 GiB: %.0f GB/s\n", queue_->info().name.c_str(),
              copy_bytes_per_second_ / 1e9);
}

void* CudaBench::Allocate(size_t bytes) {
  buffers_.push_back(Must(Buffer::Allocate(Device::kCuda, bytes)));
  return buffers_.back().data();
}

void* CudaBench::UploadBytes(const void* data, size_t bytes) {
  void* const to = Allocate(bytes);
  Must(queue_->Upload(to, data, bytes));
  Must(queue_->Synchronize());
  return to;
}

void* CudaBench::Random(const std::vector<uint8_t>& block, size_t bytes) {
  auto* const to = static_cast<uint8_t*>(Allocate(bytes));
  size_t filled = std::min(bytes, block.size());
  Must(queue_->Upload(to, block.data(), filled));
  while (filled < bytes) {
    const size_t more = std::min(filled, bytes - filled);
    Must(queue_->Copy(to + filled, to, more));
    filled += more;
  }
  Must(queue_->Synchronize());
  return to;
}

float* CudaBench::Floats(size_t count) {
  return static_cast<float*>(Random(float_block_, count * sizeof(float)));
}
BF16* CudaBench::Rounded(size_t count) {
  return static_cast<BF16*>(Random(rounded_block_, count * sizeof(BF16)));
}
float* CudaBench::Zeros(size_t count) {
  return static_cast<float*>(Allocate(count * sizeof(float)));
}

RaggedRows CudaBench::Rows(int seqs, int rows, int64_t start, int first_slot) {
  std::vector<int32_t> offsets = {0}, slots, row_seqs;
  for (int s = 0; s < seqs; ++s) {
    offsets.push_back((s + 1) * rows);
    slots.push_back(first_slot + s);
    row_seqs.insert(row_seqs.end(), rows, s);
  }
  RaggedRows out;
  out.num_rows = seqs * rows;
  out.num_seqs = seqs;
  out.seq_offsets = Upload(offsets);
  out.slots = Upload(slots);
  out.start_positions = Upload(std::vector<int64_t>(seqs, start));
  out.row_seqs = Upload(row_seqs);
  out.max_seq_rows = rows;
  return out;
}

double CudaBench::Microseconds(int calls, const std::function<absl::Status(int)>& call) {
  constexpr int kReplays = 8;
  Must(call(0));  // whatever is set up once
  Must(queue_->Synchronize());
  Must(queue_->BeginCapture());
  for (int i = 0; i < calls; ++i) Must(call(i));
  const DeviceGraph graph = Must(queue_->EndCapture());
  DeviceEvent begin, end;
  double best = 1e30;
  for (int i = 0; i < kReplays; ++i) {
    Must(queue_->Record(begin));
    Must(queue_->Launch(graph));
    Must(queue_->Record(end));
    Must(queue_->Synchronize());
    best = std::min(best, 1e3 * double{Must(DeviceQueue::Milliseconds(begin, end))} / calls);
  }
  return best;
}

void CudaBench::Report(const std::string& name, double microseconds, double bytes,
                       double operations) {
  const double rate = bytes / microseconds * 1e6;
  std::printf("%-44s %9.2f us %7.0f GB/s %5.1f%% of copy", name.c_str(), microseconds, rate / 1e9,
              100.0 * rate / copy_bytes_per_second_);
  if (operations > 0.0) std::printf("  %6.1f TFLOP/s", operations / microseconds / 1e6);
  std::printf("\n");
  std::fflush(stdout);
}

}  // namespace reprise::kernels::bench
