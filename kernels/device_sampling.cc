#include "kernels/device_sampling.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/cuda/sampling.h"

namespace reprise::kernels {
namespace {

using cuda::SamplingEntry;
using cuda::SamplingResult;
using cuda::SamplingRow;

constexpr int kMostRows = 1 << 16;
// Room for entries at first, per row; grows when a step brings more.
constexpr size_t kFirstEntries = 64;

// With neutral penalties counts change no bit.
bool CountsMatter(const SamplingParams& params) {
  return params.repetition_penalty != 1.0f || params.presence_penalty != 0.0f ||
         params.frequency_penalty != 0.0f;
}

size_t NumEntries(const RowRequest& request) {
  if (request.score >= 0 || request.sample.params == nullptr) return 0;
  const SamplingParams& params = *request.sample.params;
  return params.logit_bias.size() + (CountsMatter(params) ? request.sample.counts.size() : 0);
}

bool IsId(int32_t id, int vocab_size) { return id >= 0 && id < vocab_size; }

absl::Status NoId(const char* what, int32_t id, int vocab_size) {
  return absl::InvalidArgumentError(
      absl::StrCat(what, ": expected 0..", vocab_size - 1, ", found ", id));
}

// Fills `row` and its entries from `at`. An error leaves a row that the device can answer.
absl::Status Pack(const RowRequest& request, int vocab_size, SamplingRow& row,
                  SamplingEntry* entries, int64_t& at) {
  row = SamplingRow();
  const SampleRequest& sample = request.sample;
  if (request.score >= 0) {
    if (!IsId(request.score, vocab_size)) return NoId("id", request.score, vocab_size);
    row.score = request.score;
  } else if (sample.params == nullptr) {
    return absl::InvalidArgumentError("params: expected sampling parameters, found none");
  }
  row.top_logprobs = std::clamp(sample.top_logprobs, 0, cuda::kMaxTopLogprobs);
  row.want_logprob = request.score >= 0 || sample.want_logprob || row.top_logprobs > 0;
  if (request.score >= 0) return absl::OkStatus();

  const SamplingParams& params = *sample.params;
  row.entries = at;
  SamplingEntry* entry = entries + at;
  for (const auto& [id, bias] : params.logit_bias) {
    if (!IsId(id, vocab_size)) return NoId("logit_bias", id, vocab_size);
    entry->id = id;
    entry++->bias = bias;
  }
  if (CountsMatter(params)) {
    for (const TokenCount& count : sample.counts) {
      if (!IsId(count.id, vocab_size)) return NoId("counts", count.id, vocab_size);
      entry->id = count.id;
      entry++->in_answer = count.in_answer;
    }
    row.num_counts = static_cast<int32_t>(sample.counts.size());
  }
  row.num_biases = static_cast<int32_t>(params.logit_bias.size());
  at = entry - entries;
  row.temperature = params.temperature;
  row.top_p = params.top_p;
  row.min_p = params.min_p;
  row.top_k = params.top_k;
  row.truncates = params.top_k > 0 || params.top_p < 1.0f || params.min_p > 0.0f;
  row.repetition_penalty = params.repetition_penalty;
  row.presence_penalty = params.presence_penalty;
  row.frequency_penalty = params.frequency_penalty;
  // The 53 bits of the CPU's uniform number.
  row.draw = PhiloxDraw(params.seed, sample.index, 0) >> 11 << 11;
  return absl::OkStatus();
}

SampledToken Unpack(const SamplingResult& result) {
  SampledToken token;
  token.id = result.id;
  token.logprob = result.logprob;
  for (int i = 0; i < result.num_top; ++i) {
    token.top.push_back({result.top[i].id, result.top[i].logprob});
  }
  return token;
}

}  // namespace

DeviceSampler::DeviceSampler(int max_rows, int vocab_size, const Context& context)
    : max_rows_(max_rows), vocab_size_(vocab_size), context_(context) {}

absl::StatusOr<std::unique_ptr<DeviceSampler>> DeviceSampler::Create(int max_rows, int vocab_size,
                                                                     const Context& context) {
  if (context.device != Device::kCuda || context.queue == nullptr) {
    return absl::InvalidArgumentError("DeviceSampler: context: expected a CUDA queue, found none");
  }
  if (max_rows < 1 || max_rows > kMostRows) {
    return absl::InvalidArgumentError(
        absl::StrCat("DeviceSampler: max_rows: expected 1..", kMostRows, ", found ", max_rows));
  }
  if (vocab_size < 1 || vocab_size > kMaxVocab) {
    return absl::InvalidArgumentError(
        absl::StrCat("DeviceSampler: vocab_size: expected 1..", kMaxVocab, ", found ", vocab_size));
  }
  std::unique_ptr<DeviceSampler> sampler(new DeviceSampler(max_rows, vocab_size, context));
  ASSIGN_OR_RETURN(sampler->ids_, Buffer::Allocate(context.device, sizeof(int32_t) * max_rows));
  for (Step& step : sampler->steps_) {
    const size_t bytes = sizeof(SamplingResult) * max_rows;
    ASSIGN_OR_RETURN(step.results, Buffer::Allocate(context.device, bytes));
    ASSIGN_OR_RETURN(step.host_results, PinnedBuffer::Allocate(bytes));
    RETURN_IF_ERROR(sampler->Reserve(
        step, (sizeof(SamplingRow) + kFirstEntries * sizeof(SamplingEntry)) * max_rows));
  }
  return sampler;
}

DeviceSampler::~DeviceSampler() {
  std::vector<absl::StatusOr<SampledToken>> dropped;
  while (queued_ > 0) Collect(&dropped).IgnoreError();
}

absl::Status DeviceSampler::Reserve(Step& step, size_t request_bytes) {
  if (request_bytes <= step.requests.size()) return absl::OkStatus();
  // The step's buffers are not in use: its last answers have been collected.
  const size_t bytes = std::max(request_bytes, 2 * step.requests.size());
  ASSIGN_OR_RETURN(Buffer device, Buffer::Allocate(context_.device, bytes));
  ASSIGN_OR_RETURN(step.host_requests, PinnedBuffer::Allocate(bytes));
  step.requests = std::move(device);
  return absl::OkStatus();
}

absl::Status DeviceSampler::Queue(const float* logits, absl::Span<const RowRequest> requests) {
  if (requests.size() > static_cast<size_t>(max_rows_)) {
    return absl::InvalidArgumentError(absl::StrCat("DeviceSampler: requests: expected at most ",
                                                   max_rows_, ", found ", requests.size()));
  }
  if (logits == nullptr && !requests.empty()) {
    return absl::InvalidArgumentError("DeviceSampler: logits: expected a tensor, found null");
  }
  if (queued_ == kMaxQueued) {
    return absl::FailedPreconditionError("DeviceSampler: no more steps can be queued");
  }
  Step& step = steps_[(oldest_ + queued_) % kMaxQueued];
  const size_t rows_bytes = sizeof(SamplingRow) * requests.size();
  size_t num_entries = 0;
  for (const RowRequest& request : requests) num_entries += NumEntries(request);
  RETURN_IF_ERROR(Reserve(step, rows_bytes + sizeof(SamplingEntry) * num_entries));

  auto* const rows = step.host_requests.as<SamplingRow>();
  auto* const entries = reinterpret_cast<SamplingEntry*>(rows + requests.size());
  int64_t at = 0;
  bool look_once = true;
  step.errors.clear();
  for (size_t i = 0; i < requests.size(); ++i) {
    step.errors.push_back(Pack(requests[i], vocab_size_, rows[i], entries, at));
    if (!step.errors.back().ok()) rows[i] = SamplingRow();  // answered, and not looked at
    look_once &= rows[i].temperature == 0.0f && rows[i].num_biases == 0 &&
                 rows[i].num_counts == 0 && rows[i].top_logprobs == 0;
  }

  if (!requests.empty()) {
    DeviceQueue& queue = *context_.queue;
    RETURN_IF_ERROR(queue.Upload(step.requests.data(), rows,
                                 rows_bytes + sizeof(SamplingEntry) * static_cast<size_t>(at)));
    cuda::SampleRowsParams params;
    params.num_rows = static_cast<int32_t>(requests.size());
    params.vocab_size = vocab_size_;
    params.look_once = look_once;
    params.logits = logits;
    params.requests = step.requests.as<SamplingRow>();
    params.entries =
        reinterpret_cast<const SamplingEntry*>(step.requests.as<SamplingRow>() + requests.size());
    params.results = step.results.as<SamplingResult>();
    params.ids = ids_.as<int32_t>();
    RETURN_IF_ERROR(cuda::SampleRows(params, queue));
    RETURN_IF_ERROR(queue.Download(step.host_results.as<SamplingResult>(), step.results.data(),
                                   sizeof(SamplingResult) * requests.size()));
    RETURN_IF_ERROR(queue.Record(step.done));
  }
  ++queued_;
  return absl::OkStatus();
}

absl::Status DeviceSampler::Collect(std::vector<absl::StatusOr<SampledToken>>* results) {
  results->clear();
  if (queued_ == 0) return absl::FailedPreconditionError("DeviceSampler: no step is queued");
  Step& step = steps_[oldest_];
  oldest_ = (oldest_ + 1) % kMaxQueued;
  --queued_;
  if (!step.errors.empty()) RETURN_IF_ERROR(context_.queue->WaitOnHost(step.done));
  for (size_t i = 0; i < step.errors.size(); ++i) {
    const SamplingResult& result = step.host_results.as<SamplingResult>()[i];
    if (!step.errors[i].ok()) {
      results->push_back(step.errors[i]);
    } else if (result.sound == 0) {
      results->push_back(absl::InternalError("logits: NaN, infinite or none finite"));
    } else {
      results->push_back(Unpack(result));
    }
  }
  return absl::OkStatus();
}

absl::Status DeviceSampler::Sample(const float* logits, absl::Span<const RowRequest> requests,
                                   std::vector<absl::StatusOr<SampledToken>>* results) {
  if (queued_ != 0) {
    return absl::FailedPreconditionError("DeviceSampler: steps are queued already");
  }
  RETURN_IF_ERROR(Queue(logits, requests));
  return Collect(results);
}

}  // namespace reprise::kernels
