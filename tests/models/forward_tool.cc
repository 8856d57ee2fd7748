// Runs a checkpoint on token ids and writes raw logits: the bridge between the Python oracles of
// test_parity.py and LoadModel + Forward.
//
// stdin:  {"folder": "...", "tokens": [..], "chunks": [..], "threads": 2, "logits": "all" | "last",
//          "device": "cpu" | "cuda", "weight_format": "checkpoint" | "fp8"}
//         (chunks: rows of each Forward, one Forward of all tokens when absent)
// stdout: float32 [tokens, vocab], or [1, vocab]; with "greedy": n instead of "logits", n token ids
//         as int32 that continue the text
// stderr: one line of JSON with facts and timings
#include <chrono>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/status_macros.h"
#include "kernels/device_queue.h"
#include "kernels/kernels.h"
#include "models/json_reader.h"
#include "models/load_model.h"

namespace reprise::models {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

absl::Status Feed(HybridModel& model, StateSlots& slots, int slot, absl::Span<const int32_t> tokens,
                  int64_t position, bool all_logits, std::vector<float>& logits) {
  RaggedBatch batch;
  batch.tokens.assign(tokens.begin(), tokens.end());
  batch.seq_offsets.push_back(batch.num_rows());
  batch.slots.push_back(slot);
  batch.start_positions.push_back(position);
  for (int row = all_logits ? 0 : batch.num_rows() - 1; row < batch.num_rows(); ++row) {
    batch.logit_rows.push_back(row);
  }
  logits.resize(batch.logit_rows.size() * model.info().vocab_size);
  return model.Forward(batch, slots, absl::MakeSpan(logits));
}

int32_t ArgMax(const std::vector<float>& logits) {
  size_t best = 0;
  for (size_t i = 1; i < logits.size(); ++i) {
    if (logits[i] > logits[best]) best = i;
  }
  return static_cast<int32_t>(best);
}

template <typename T>
void Write(const std::vector<T>& values) {
  std::fwrite(values.data(), sizeof(T), values.size(), stdout);
}

absl::Status Run(const nlohmann::json& request) {
  const auto tokens = request.at("tokens").get<std::vector<int32_t>>();
  std::vector<int> chunks = {static_cast<int>(tokens.size())};
  if (request.contains("chunks")) chunks = request.at("chunks").get<std::vector<int>>();
  const int greedy = request.value("greedy", 0);
  const bool all_logits = greedy == 0 && request.value("logits", "all") == "all";

  ASSIGN_OR_RETURN(const auto pool, kernels::ThreadPool::Create(request.value("threads", 2)));
  LoadOptions options;
  options.context.pool = pool.get();
  options.weight_format = WeightFormatOf(request.value("weight_format", "checkpoint"));
  std::unique_ptr<kernels::DeviceQueue> queue;
  if (request.value("device", "cpu") == "cuda") {
    ASSIGN_OR_RETURN(queue, kernels::DeviceQueue::Create());
    options.context.device = kernels::Device::kCuda;
    options.context.queue = queue.get();
  }
  for (const int chunk : chunks) options.max_rows = std::max(options.max_rows, chunk);
  const auto load_start = Clock::now();
  ASSIGN_OR_RETURN(const LoadedModel loaded,
                   LoadModel(request.at("folder").get<std::string>(), options));
  const double load_seconds = SecondsSince(load_start);
  ASSIGN_OR_RETURN(const auto slots,
                   StateSlots::Create(loaded.model->state_layout(), 1, options.context));
  ASSIGN_OR_RETURN(const SlotHandle slot, slots->Acquire());

  std::vector<float> logits;
  int64_t position = 0;
  const auto prefill_start = Clock::now();
  for (const int chunk : chunks) {
    const auto piece = absl::MakeConstSpan(tokens).subspan(position, chunk);
    RETURN_IF_ERROR(Feed(*loaded.model, *slots, slot.slot(), piece, position, all_logits, logits));
    position += chunk;
    if (all_logits) Write(logits);
  }
  const double prefill_seconds = SecondsSince(prefill_start);
  if (!all_logits && greedy == 0) Write(logits);

  std::vector<int32_t> generated;
  const auto decode_start = Clock::now();
  while (static_cast<int>(generated.size()) < greedy) {
    generated.push_back(ArgMax(logits));
    RETURN_IF_ERROR(
        Feed(*loaded.model, *slots, slot.slot(), {generated.back()}, position++, false, logits));
  }
  const double decode_seconds = SecondsSince(decode_start);
  Write(generated);

  const ModelInfo& info = loaded.model->info();
  const nlohmann::json facts = {{"fingerprint", info.weights_fingerprint},
                                {"parameters", info.num_parameters},
                                {"dtype", info.dtype},
                                {"weight_bytes", info.weight_bytes},
                                {"unused_tensors", info.unused_tensors},
                                {"state_bytes", loaded.model->state_layout().bytes()},
                                {"load_seconds", load_seconds},
                                {"prefill_seconds", prefill_seconds},
                                {"decode_seconds", decode_seconds}};
  std::cerr << facts.dump() << std::endl;
  return absl::OkStatus();
}

}  // namespace
}  // namespace reprise::models

int main() {
  const std::string text((std::istreambuf_iterator<char>(std::cin)), {});
  absl::Status status;
  try {
    status = reprise::models::Run(nlohmann::json::parse(text));
  } catch (const nlohmann::json::exception& error) {
    status = absl::InvalidArgumentError(error.what());
  }
  if (!status.ok()) std::cerr << status << std::endl;
  return status.ok() ? 0 : 1;
}
