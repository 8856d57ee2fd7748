#include "tests/kernels/mirror.h"

#include <algorithm>
#include <cstdio>

namespace reprise::kernels {

void* Mirror::Lend(const void* data, size_t bytes, void* back) {
  if (context_.device == Device::kCpu) return const_cast<void*>(data);
  if (bytes == 0) return nullptr;
  absl::StatusOr<Buffer> buffer = Buffer::Allocate(context_.device, bytes);
  status_.Update(buffer.status());
  if (!buffer.ok()) return nullptr;
  status_.Update(context_.queue->Upload(buffer->data(), data, bytes));
  void* device = buffer->data();
  copies_.push_back({*std::move(buffer), back, bytes});
  return device;
}

RaggedRows Mirror::Rows(const RaggedRows& rows) {
  if (context_.device == Device::kCpu) return rows;
  RaggedRows out = rows;
  const auto offsets = std::vector<int32_t>(rows.seq_offsets, rows.seq_offsets + rows.num_seqs + 1);
  ints_.push_back(std::make_unique<std::vector<int32_t>>(offsets));
  out.seq_offsets = In(*ints_.back());
  ints_.push_back(std::make_unique<std::vector<int32_t>>(rows.slots, rows.slots + rows.num_seqs));
  out.slots = In(*ints_.back());
  longs_.push_back(std::make_unique<std::vector<int64_t>>(rows.start_positions,
                                                          rows.start_positions + rows.num_seqs));
  out.start_positions = In(*longs_.back());
  ints_.push_back(std::make_unique<std::vector<int32_t>>());
  out.max_seq_rows = 0;
  for (int s = 0; s < rows.num_seqs; ++s) {
    const int32_t count = offsets[s + 1] - offsets[s];
    ints_.back()->insert(ints_.back()->end(), count, s);
    out.max_seq_rows = std::max(out.max_seq_rows, count);
  }
  out.row_seqs = In(*ints_.back());
  return out;
}

absl::Status Mirror::Finish() {
  if (context_.device == Device::kCuda) {
    for (const Copy& copy : copies_) {
      if (copy.back == nullptr) continue;
      status_.Update(context_.queue->Download(copy.back, copy.buffer.data(), copy.bytes));
    }
    status_.Update(context_.queue->Synchronize());
  }
  for (const auto& [rounded, values] : widened_) {
    for (size_t i = 0; i < rounded->size(); ++i) values[i] = Widen((*rounded)[i]);
  }
  return status_;
}

DeviceQueue* TestQueue() {
  static DeviceQueue* const queue = [] {
    absl::StatusOr<std::unique_ptr<DeviceQueue>> made = DeviceQueue::Create();
    if (made.ok()) return made->release();
    std::printf("no CUDA tests: %s\n", made.status().ToString().c_str());
    return static_cast<DeviceQueue*>(nullptr);
  }();
  return queue;
}

}  // namespace reprise::kernels
