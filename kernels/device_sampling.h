// Sampling where the logits are: on a CUDA device, with the meaning of kernels/sampling.h. Only the
// chosen tokens and the log-probabilities that were asked for come to the host.
#ifndef REPRISE_KERNELS_DEVICE_SAMPLING_H_
#define REPRISE_KERNELS_DEVICE_SAMPLING_H_

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/device_queue.h"
#include "kernels/kernels.h"
#include "kernels/sampling.h"

namespace reprise::kernels {

// What one row of logits is for: the next token, drawn as `sample` says, or the log-probability of
// a token that is known already.
struct RowRequest {
  SampleRequest sample;
  int32_t score = -1;  // >= 0: the token to score; of `sample` only top_logprobs is read
};

// Answers rows as Sample() and Score() do, on the context's queue. A row's answer depends on that
// row and its request only, bit for bit. Against the CPU: greedy choices are equal; weights are
// float32 here and summed exactly, so that a draw, or the end of top_p and min_p, may fall on the
// neighbour in rank where the CPU's sum is within 1e-6 (relative) of the boundary;
// log-probabilities agree to 1e-5.
//
// One step at a time: Sample(). A step ahead of the host: Queue() twice, then Collect() the first
// while the second runs; its tokens are at ids() for the step that is queued next.
//
// Not thread-safe: belongs to the queue's thread.
class DeviceSampler {
 public:
  static constexpr int kMaxVocab = 8 * 36864;  // a row lies in the shared memory of 8 processors
  static constexpr int kMaxQueued = 2;         // steps between Queue and Collect

  // `max_rows` in 1..65536, `vocab_size` in 1..kMaxVocab, `context` on CUDA with a queue that
  // outlives this; else INVALID_ARGUMENT. RESOURCE_EXHAUSTED without the memory for the requests.
  static absl::StatusOr<std::unique_ptr<DeviceSampler>> Create(int max_rows, int vocab_size,
                                                               const Context& context);
  ~DeviceSampler();  // waits for what is queued

  // Queues the answers to requests[i] about row i of `logits` [requests, vocab] in device memory,
  // which are read when the queue gets there and left as they were. The requests have been read on
  // return. INVALID_ARGUMENT for more than max_rows of them; FAILED_PRECONDITION when kMaxQueued
  // steps wait already. Then nothing is queued.
  absl::Status Queue(const float* logits, absl::Span<const RowRequest> requests);

  // Waits for the oldest queued step and takes its answers, one per request: a token, INTERNAL for
  // logits that are not finite, INVALID_ARGUMENT for a token id outside the vocabulary. A failed
  // status says that the device failed. FAILED_PRECONDITION when nothing is queued.
  absl::Status Collect(std::vector<absl::StatusOr<SampledToken>>* results);

  // Queue and Collect, when nothing else is queued.
  absl::Status Sample(const float* logits, absl::Span<const RowRequest> requests,
                      std::vector<absl::StatusOr<SampledToken>>* results);

  // [max_rows] on the device: the token of each row of the step queued last, once the queue gets
  // there; some token of the vocabulary for a row that has an error instead.
  const int32_t* ids() const { return ids_.as<int32_t>(); }

 private:
  // One step on its way. Requests and their entries travel in one copy.
  struct Step {
    PinnedBuffer host_requests, host_results;
    Buffer requests, results;
    DeviceEvent done;
    std::vector<absl::Status> errors;  // per row, found on the host
  };

  DeviceSampler(int max_rows, int vocab_size, const Context& context);
  absl::Status Reserve(Step& step, size_t request_bytes);

  const int max_rows_, vocab_size_;
  const Context context_;
  Buffer ids_;
  std::array<Step, kMaxQueued> steps_;
  int oldest_ = 0, queued_ = 0;  // steps_[oldest_] was queued first
};

}  // namespace reprise::kernels

#endif  // REPRISE_KERNELS_DEVICE_SAMPLING_H_
