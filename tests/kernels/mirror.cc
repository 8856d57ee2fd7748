#include "tests/kernels/mirror.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace reprise::kernels {

namespace {

bool use_graphs = false;

// Allocating costs more than most kernels that are tested. Handed out from the bottom up; empty
// again when no Mirror is left.
struct Arena {
  static constexpr size_t kBytes = size_t{512} << 20;
  Buffer memory;
  size_t used = 0;
  int mirrors = 0;
};

Arena& SharedArena() {
  static Arena& arena = *new Arena();  // never freed: the driver may be gone at exit
  return arena;
}

}  // namespace

ScopedGraphs::ScopedGraphs() { use_graphs = true; }
ScopedGraphs::~ScopedGraphs() { use_graphs = false; }

Mirror::Mirror(const Context& context) : context_(context) { ++SharedArena().mirrors; }

Mirror::~Mirror() {
  Arena& arena = SharedArena();
  if (--arena.mirrors == 0) arena.used = 0;
}

absl::StatusOr<Mirror::Copy> Mirror::Allocate(size_t bytes) const {
  static const bool exact = std::getenv("REPRISE_EXACT_BUFFERS") != nullptr;
  Arena& arena = SharedArena();
  Copy copy;
  copy.bytes = bytes;
  if (!exact && arena.memory.data() == nullptr) {
    absl::StatusOr<Buffer> made = Buffer::Allocate(context_.device, Arena::kBytes);
    if (!made.ok()) return made.status();
    arena.memory = *std::move(made);
  }
  if (!exact && bytes <= Arena::kBytes - arena.used) {
    copy.device = arena.memory.as<uint8_t>() + arena.used;
    arena.used = std::min(Arena::kBytes, arena.used + (bytes + 255) / 256 * 256);
    return copy;
  }
  absl::StatusOr<Buffer> made = Buffer::Allocate(context_.device, bytes);
  if (!made.ok()) return made.status();
  copy.buffer = *std::move(made);
  copy.device = copy.buffer.data();
  return copy;
}

void* Mirror::Lend(const void* data, size_t bytes, void* back) {
  if (context_.device == Device::kCpu) return const_cast<void*>(data);
  if (bytes == 0) return nullptr;
  absl::StatusOr<Copy> copy = Allocate(bytes);
  status_.Update(copy.status());
  if (!copy.ok()) return nullptr;
  status_.Update(context_.queue->Upload(copy->device, data, bytes));
  copy->back = back;
  copies_.push_back(*std::move(copy));
  return copies_.back().device;
}

absl::Status Mirror::Call(const std::function<absl::Status()>& op) {
  if (!status_.ok()) return status_;
  if (context_.device == Device::kCpu || !use_graphs) return op();
  // Uploads of pageable memory may not lie in the recording.
  absl::Status status = context_.queue->Synchronize();
  if (!status.ok()) return status;
  status = context_.queue->BeginCapture();
  if (!status.ok()) return status;
  status = op();
  absl::StatusOr<DeviceGraph> graph = context_.queue->EndCapture();
  status.Update(graph.status());
  if (status.ok()) status = context_.queue->Launch(*graph);
  status.Update(context_.queue->Synchronize());  // before the graph goes
  return status;
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
      status_.Update(context_.queue->Download(copy.back, copy.device, copy.bytes));
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
