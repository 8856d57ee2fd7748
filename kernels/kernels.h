// kernels: operations on tensors, and nothing of models, requests or files.
//
// An operation is a plain function `absl::Status Op(const OpParams&, const Context&)`. The params
// struct holds sizes, then strides, then pointers, each with its shape, outermost dimension first.
// The function validates on the host, before any work: the error names the tensor, what was
// expected and what was found. kernels/cpu holds the CPU implementation (Highway, run-time
// dispatch), kernels/cuda the one for GPUs of compute capability 9.0; Context::device chooses.
//
// On CUDA all pointers of a params struct are device pointers, calls queue work on
// Context::queue and return, and what the host cannot see there (contents of RaggedRows, token ids)
// is for the caller to check before the upload. Tensors that feed a product are bfloat16 there,
// rounded once from float32: the fields named *_bf16. Where a params struct has both x and x_bf16,
// the CPU takes x and CUDA the other.
//
// The numerics contract (docs/numerics.md), which every operation here keeps:
//   - A row of an output is a function of that row's inputs and of its sequence's state only,
//     computed in one fixed order of operations: the same bits alone or in a batch, in a prefill
//     chunk or in a decode step, with any number of threads.
//   - Time is cut by an absolute grid of kGridTokens positions. State that is summed over time
//     moves only at grid boundaries; between two boundaries it is carried as "grid state + tail".
//   - No function allocates in proportion to the batch; scratch comes from the caller or from
//     per-thread storage that is reused.
//
// Alphabet of shapes: rows = tokens of a step over all sequences; seqs; slots; dim, channels;
// heads, kv_heads, head_dim; n = outputs, k = inputs of a matrix.
#ifndef REPRISE_KERNELS_KERNELS_H_
#define REPRISE_KERNELS_KERNELS_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace reprise::kernels {

// Distance between two grid boundaries, in tokens. Part of every snapshot: changing it changes
// bits.
inline constexpr int kGridTokens = 64;

enum class Device { kCpu, kCuda };

// Frozen: these numbers are written into snapshots.
// kE4M3 (kernels/e4m3.h) occurs in packed weights only.
enum class DType : uint8_t { kF32 = 1, kBF16 = 2, kF16 = 3, kI32 = 4, kU8 = 5, kE4M3 = 6 };

// Bytes of one element.
int DTypeBytes(DType dtype);
const char* DTypeName(DType dtype);

// A fixed team of threads for data-parallel loops. Thread-safe; loops from several callers run one
// after the other. The caller's thread takes part, so a pool of 1 has no other thread.
class ThreadPool {
 public:
  // `threads`: 1..256, the number that work on a loop, the caller included.
  static absl::StatusOr<std::unique_ptr<ThreadPool>> Create(int threads);
  ~ThreadPool();

  int size() const;

  // Calls fn(begin, end, thread) on disjoint ranges that cover [0, count), cut at multiples of
  // `grain` (>= 1), and returns when all are done; thread is in [0, size()). Which thread gets
  // which range is not defined: results must not depend on it. fn must not throw or call Run.
  void Run(int64_t count, int64_t grain,
           const std::function<void(int64_t begin, int64_t end, int thread)>& fn);

 private:
  struct Impl;
  explicit ThreadPool(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

class DeviceQueue;   // kernels/device_queue.h
class DeviceHealth;  // kernels/device_health.h

// Where an operation runs. Borrowed by every call; must outlive it.
struct Context {
  Device device = Device::kCpu;
  ThreadPool* pool = nullptr;      // required on the CPU
  DeviceQueue* queue = nullptr;    // required on CUDA
  DeviceHealth* health = nullptr;  // of the device; null for one that nobody watches
};

// The bits of a bfloat16.
struct BF16 {
  uint16_t bits = 0;
};

// kGeluTanh: 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))); kGelu: with erf; kSilu: x sigmoid(x).
enum class Activation { kGeluTanh, kGelu, kSilu, kRelu };

// Zeroed memory of one device, aligned to 128 bytes. Move-only owner.
class Buffer {
 public:
  // RESOURCE_EXHAUSTED when the memory is not to be had. `bytes` may be 0.
  static absl::StatusOr<Buffer> Allocate(Device device, size_t bytes);
  Buffer() = default;
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();

  void* data() const { return data_; }
  size_t size() const { return size_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
  Device device_ = Device::kCpu;
};

// How the rows of a step belong to sequences. Rows [seq_offsets[s], seq_offsets[s+1]) are
// consecutive tokens of sequence s at positions start_positions[s], +1, +2, ...
// A negative slot marks a padding sequence: its rows give zeros and touch no state. One slot occurs
// at most once in a step.
struct RaggedRows {
  int32_t num_rows = 0;
  int32_t num_seqs = 0;
  const int32_t* seq_offsets = nullptr;      // [num_seqs + 1]
  const int32_t* slots = nullptr;            // [num_seqs]
  const int64_t* start_positions = nullptr;  // [num_seqs], >= 0
  const int32_t* row_seqs = nullptr;         // CUDA only: [num_rows], the sequence of each row
  int32_t max_seq_rows = 0;                  // CUDA only: no sequence has more rows
};

// INVALID_ARGUMENT unless offsets rise from 0 to num_rows, every slot is < num_slots and unique,
// and positions are >= 0.
absl::Status ValidateRaggedRows(const RaggedRows& rows, int num_slots);

}  // namespace reprise::kernels

#endif  // REPRISE_KERNELS_KERNELS_H_
