// What DeviceSampler hands to the sampling kernel, and what comes back.
#ifndef REPRISE_KERNELS_CUDA_SAMPLING_H_
#define REPRISE_KERNELS_CUDA_SAMPLING_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/device_queue.h"

namespace reprise::kernels::cuda {

inline constexpr int kMaxTopLogprobs = 20;

// A row's request. Its biases and then its counts are entries [entries, + num_biases + num_counts).
struct SamplingRow {
  uint64_t draw = 0;  // the uniform number is draw / 2^64
  float temperature = 0.0f, top_p = 1.0f, min_p = 0.0f;
  int32_t top_k = 0;  // 0 or at least vocab: all
  float repetition_penalty = 1.0f, presence_penalty = 0.0f, frequency_penalty = 0.0f;
  int32_t score = -1;  // >= 0: nothing is chosen
  int32_t truncates = 0;
  int32_t want_logprob = 0, top_logprobs = 0;  // 0..kMaxTopLogprobs
  int32_t num_biases = 0, num_counts = 0;
  int64_t entries = 0;
};

struct SamplingEntry {
  int32_t id = 0;
  union {
    float bias;
    int32_t in_answer;
  };
};

struct SamplingResult {
  int32_t id;
  float logprob;
  int32_t sound;  // 0: NaN, infinite or none finite; the rest is then 0
  int32_t num_top;
  struct {
    int32_t id;
    float logprob;
  } top[kMaxTopLogprobs];
};

// All pointers are device pointers.
struct SampleRowsParams {
  int32_t num_rows = 0, vocab_size = 0;
  bool look_once = false;                  // no row draws, or has biases, counts or tops
  const float* logits = nullptr;           // [num_rows, vocab_size]
  const SamplingRow* requests = nullptr;   // [num_rows]
  const SamplingEntry* entries = nullptr;  // of all rows
  SamplingResult* results = nullptr;       // [num_rows]
  int32_t* ids = nullptr;                  // [num_rows]
};
absl::Status SampleRows(const SampleRowsParams& params, DeviceQueue& queue);

}  // namespace reprise::kernels::cuda

#endif  // REPRISE_KERNELS_CUDA_SAMPLING_H_
