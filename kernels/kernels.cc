#include "kernels/kernels.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/cuda/cuda.h"
#include "kernels/internal/validate.h"

namespace reprise::kernels {
namespace {

constexpr size_t kAlignment = 128;
// From here on memory comes from mmap: zero pages cost nothing until they are touched, and huge
// pages spare the streaming products most of their TLB misses.
constexpr size_t kMapBytes = size_t{4} << 20;
constexpr size_t kHugePage = size_t{2} << 20;

size_t RoundUp(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

// Maps `bytes` (a multiple of kHugePage) at a multiple of kHugePage, or returns null.
void* MapHuge(size_t bytes) {
  void* raw = ::mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) return nullptr;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(raw);
  const uintptr_t aligned = RoundUp(begin, kHugePage);
  if (aligned != begin) ::munmap(raw, aligned - begin);
  const size_t rest = begin + kHugePage - aligned;
  if (rest != 0) ::munmap(reinterpret_cast<void*>(aligned + bytes), rest);
  void* data = reinterpret_cast<void*>(aligned);
  ::madvise(data, bytes, MADV_HUGEPAGE);  // a hint: failure changes nothing but speed
  return data;
}

void FreeBuffer(Device device, void* data, size_t bytes) {
  if (data == nullptr) return;
  if (device == Device::kCuda) {
    cuda::Free(data);
  } else if (bytes >= kMapBytes) {
    ::munmap(data, RoundUp(bytes, kHugePage));
  } else {
    std::free(data);
  }
}

}  // namespace

int DTypeBytes(DType dtype) {
  switch (dtype) {
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kBF16:
    case DType::kF16:
      return 2;
    case DType::kU8:
    case DType::kE4M3:
      return 1;
  }
  return 0;
}

const char* DTypeName(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "f32";
    case DType::kBF16:
      return "bf16";
    case DType::kF16:
      return "f16";
    case DType::kI32:
      return "i32";
    case DType::kU8:
      return "u8";
    case DType::kE4M3:
      return "e4m3";
  }
  return "unknown";
}

absl::StatusOr<Buffer> Buffer::Allocate(Device device, size_t bytes) {
  if (device == Device::kCuda) RETURN_IF_ERROR(cuda::Available());
  Buffer buffer;
  buffer.device_ = device;
  if (bytes == 0) return buffer;
  if (device == Device::kCuda) {
    ASSIGN_OR_RETURN(buffer.data_, cuda::Allocate(bytes));
    buffer.size_ = bytes;
    return buffer;
  }
  if (bytes <= std::numeric_limits<size_t>::max() / 2) {
    if (bytes >= kMapBytes) {
      buffer.data_ = MapHuge(RoundUp(bytes, kHugePage));
    } else {
      buffer.data_ = std::aligned_alloc(kAlignment, RoundUp(bytes, kAlignment));
      if (buffer.data_ != nullptr) std::memset(buffer.data_, 0, bytes);
    }
  }
  if (buffer.data_ == nullptr) {
    return absl::ResourceExhaustedError(absl::StrCat("Buffer: no memory for ", bytes, " bytes"));
  }
  buffer.size_ = bytes;
  return buffer;
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      device_(other.device_) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this != &other) {
    FreeBuffer(device_, data_, size_);
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
    device_ = other.device_;
  }
  return *this;
}

Buffer::~Buffer() { FreeBuffer(device_, data_, size_); }

absl::Status ValidateRaggedRows(const RaggedRows& rows, int num_slots) {
  internal::Validator v("rows");
  v.AtLeast("num_rows", rows.num_rows, 0)
      .AtLeast("num_seqs", rows.num_seqs, 0)
      .AtLeast("num_slots", num_slots, 0)
      .Pointer("seq_offsets", rows.seq_offsets);
  if (rows.num_seqs > 0) {
    v.Pointer("slots", rows.slots).Pointer("start_positions", rows.start_positions);
  }
  if (!v.ok()) return v.status();
  v.Check(rows.seq_offsets[0] == 0, "seq_offsets[0]", "0", absl::StrCat(rows.seq_offsets[0]));
  for (int s = 0; s < rows.num_seqs && v.ok(); ++s) {
    const int32_t begin = rows.seq_offsets[s], end = rows.seq_offsets[s + 1];
    if (end < begin || end > rows.num_rows) {
      v.Range(absl::StrCat("seq_offsets[", s + 1, "]"), end, begin, rows.num_rows);
    }
    if (rows.slots[s] >= num_slots) {
      v.Check(false, absl::StrCat("slots[", s, "]"), absl::StrCat("< ", num_slots),
              absl::StrCat(rows.slots[s]));
    }
    const int64_t position = rows.start_positions[s];
    if (position < 0 || position > std::numeric_limits<int64_t>::max() - rows.num_rows) {
      v.Check(false, absl::StrCat("start_positions[", s, "]"), ">= 0 and no overflow",
              absl::StrCat(position));
    }
  }
  if (!v.ok()) return v.status();
  const int32_t last = rows.seq_offsets[rows.num_seqs];
  v.Check(last == rows.num_rows, absl::StrCat("seq_offsets[", rows.num_seqs, "]"),
          absl::StrCat(rows.num_rows, " (num_rows)"), absl::StrCat(last));
  static thread_local std::vector<int32_t> sorted;
  sorted.assign(rows.slots, rows.slots + rows.num_seqs);
  std::sort(sorted.begin(), sorted.end());
  for (size_t i = 1; i < sorted.size() && v.ok(); ++i) {
    if (sorted[i] >= 0 && sorted[i] == sorted[i - 1]) {
      v.Check(false, "slots", "each slot once", absl::StrCat("slot ", sorted[i], " twice"));
    }
  }
  return v.status();
}

absl::Status internal::ValidateContext(const char* op, const Context& context) {
  switch (context.device) {
    case Device::kCpu:
      if (context.pool == nullptr) {
        return absl::InvalidArgumentError(
            absl::StrCat(op, ": context.pool: expected a thread pool on the CPU, found null"));
      }
      return absl::OkStatus();
    case Device::kCuda:
      RETURN_IF_ERROR(Prefixed(cuda::Available(), op));
      if (context.queue == nullptr) {
        return absl::InvalidArgumentError(
            absl::StrCat(op, ": context.queue: expected a queue on CUDA, found null"));
      }
      return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(op,
                                                 ": context.device: expected a "
                                                 "known device, found ",
                                                 static_cast<int>(context.device)));
}

}  // namespace reprise::kernels
