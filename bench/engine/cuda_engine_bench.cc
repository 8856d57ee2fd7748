// The engine on a CUDA device, without scheduler and sampling: decode steps at several batch sizes
// with full windows, prefill at several lengths, forks, export and import, each beside the floor
// that the device's memory sets. Prints a table.
//
//   cuda_engine_bench --model DIR [--batches 1,32,256] [--prefill 8192,131072] [--chunk 8192]
//                     [--redis unix:///path] [--weight-format fp8]
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "bench/must.h"
#include "kernels/device_queue.h"
#include "models/load_model.h"
#include "scheduler/session_state.h"
#include "state_store/redis/redis_store.h"

namespace reprise {
namespace {

using kernels::DeviceEvent;
using kernels::DeviceQueue;
using models::RaggedBatch;
using models::SlotHandle;

using bench::Must;

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class Bench {
 public:
  Bench(const std::string& model, models::WeightFormat format, int chunk, int slots)
      : chunk_(chunk) {
    pool_ = Must(kernels::ThreadPool::Create(8));
    queue_ = Must(DeviceQueue::Create());
    context_ = {kernels::Device::kCuda, pool_.get(), queue_.get()};
    std::printf("device %s\n", queue_->info().name.c_str());
    models::LoadOptions load;
    load.context = context_;
    load.max_rows = chunk;
    load.weight_format = format;
    const double begin = Now();
    loaded_ = Must(models::LoadModel(model, load));
    const models::ModelInfo& info = loaded_.model->info();
    std::printf("loaded %.2f B parameters, %.2f GB of weights (%s) in %.1f s\n",
                1e-9 * info.num_parameters, 1e-9 * info.weight_bytes, info.dtype.c_str(),
                Now() - begin);
    slots_ = Must(models::StateSlots::Create(loaded_.model->state_layout(), slots, context_));
    bandwidth_ = CopyBandwidth();
    std::printf("copy bandwidth %.3f TB/s (read + written)\n", 1e-12 * bandwidth_);
  }

  // Seconds of device time for `steps` calls of `step`, and the host's part of it.
  template <typename Step>
  std::pair<double, double> Time(int steps, Step step) {
    DeviceEvent begin, end;
    Must(queue_->Synchronize());
    Must(queue_->Record(begin));
    const double host = Now();
    for (int i = 0; i < steps; ++i) step();
    const double host_seconds = Now() - host;
    Must(queue_->Record(end));
    Must(queue_->Synchronize());
    return {1e-3 * Must(DeviceQueue::Milliseconds(begin, end)), host_seconds};
  }

  double CopyBandwidth() {
    const size_t bytes = size_t{2} << 30;
    kernels::Buffer from = Must(kernels::Buffer::Allocate(kernels::Device::kCuda, bytes));
    kernels::Buffer to = Must(kernels::Buffer::Allocate(kernels::Device::kCuda, bytes));
    const auto copy = [&] { Must(queue_->Copy(to.data(), from.data(), bytes)); };
    Time(3, copy);
    return 2.0 * bytes * 10 / Time(10, copy).first;
  }

  // A token that changes with its position.
  int32_t Token(int64_t position) const {
    return static_cast<int32_t>((position * 2654435761u >> 7) % loaded_.model->info().vocab_size);
  }

  void Feed(int slot, int64_t position, int64_t tokens) {
    for (int64_t done = 0; done < tokens;) {
      const int64_t rows = std::min<int64_t>(chunk_, tokens - done);
      RaggedBatch batch;
      for (int64_t i = 0; i < rows; ++i) batch.tokens.push_back(Token(position + done + i));
      batch.seq_offsets.push_back(static_cast<int32_t>(rows));
      batch.slots.push_back(slot);
      batch.start_positions.push_back(position + done);
      batch.logit_rows.push_back(static_cast<int32_t>(rows - 1));
      Must(loaded_.model->ForwardOnDevice(batch, *slots_).status());
      done += rows;
    }
  }

  void Prefill(int64_t tokens) {
    SlotHandle slot = Must(slots_->Acquire());
    Feed(slot.slot(), 0, std::min<int64_t>(tokens, chunk_));  // warm
    const double seconds = Time(1, [&] { Feed(slot.slot(), 0, tokens); }).first;
    const models::ModelInfo& info = loaded_.model->info();
    const double matrix_parameters =
        static_cast<double>(info.num_parameters) - double{1} * info.vocab_size * info.hidden_size;
    std::printf("prefill %8ld tokens: %8.1f ms, %9.0f tokens/s, %6.1f TFLOP/s in products\n",
                tokens, 1e3 * seconds, tokens / seconds,
                2e-12 * matrix_parameters * tokens / seconds);
  }

  // Bytes that a decode step has to move: the weights once, each sequence's state.
  double StepBytes(int batch) const {
    const models::ModelInfo& info = loaded_.model->info();
    double state = 0;
    for (const models::StateTensor& tensor : loaded_.model->state_layout().tensors()) {
      const bool window = tensor.role == models::StateRole::kWindowKeys ||
                          tensor.role == models::StateRole::kWindowValues;
      state += window ? tensor.bytes : 2.0 * tensor.bytes;
    }
    const double embedding = 2.0 * info.vocab_size * info.hidden_size;
    return info.weight_bytes - embedding + batch * state;
  }

  void Decode(int batch) {
    std::vector<SlotHandle> handles;
    for (int i = 0; i < batch; ++i) handles.push_back(Must(slots_->Acquire()));
    int64_t position = 2304;
    Feed(handles[0].slot(), 0, position);
    std::vector<int> others;
    for (int i = 1; i < batch; ++i) others.push_back(handles[i].slot());
    Must(slots_->Copy(handles[0].slot(), others));
    RaggedBatch step;
    for (int i = 0; i < batch; ++i) {
      step.tokens.push_back(Token(17 * i));
      step.seq_offsets.push_back(i + 1);
      step.slots.push_back(handles[i].slot());
      step.start_positions.push_back(position);
      step.logit_rows.push_back(i);
    }
    const auto run = [&] {
      Must(loaded_.model->ForwardOnDevice(step, *slots_).status());
      for (int64_t& start : step.start_positions) ++start;
      for (int32_t& token : step.tokens) token = (token + 1) % loaded_.model->info().vocab_size;
    };
    Time(10, run);
    const int steps = batch >= 64 ? 30 : 60;
    double best = 1e9, host = 0;
    for (int repeat = 0; repeat < 3; ++repeat) {
      const auto [seconds, host_seconds] = Time(steps, run);
      if (seconds / steps < best) {
        best = seconds / steps;
        host = host_seconds / steps;
      }
    }
    const double floor = StepBytes(batch) / bandwidth_;
    std::printf(
        "decode batch %4d: %7.3f ms/step, %8.1f tokens/s, floor %6.3f ms, %5.1f%% of the floor "
        "(host %.3f ms)\n",
        batch, 1e3 * best, batch / best, 1e3 * floor, 100 * floor / best, 1e3 * host);
  }

  void States() {
    SlotHandle from = Must(slots_->Acquire());
    Feed(from.slot(), 0, 2304);
    const size_t bytes = loaded_.model->state_layout().bytes();
    for (const int count : {1, 8, 64}) {
      if (slots_->free_slots() < count) break;
      std::vector<SlotHandle> handles;
      std::vector<int> to;
      for (int i = 0; i < count; ++i) {
        handles.push_back(Must(slots_->Acquire()));
        to.push_back(handles.back().slot());
      }
      const auto fork = [&] { Must(slots_->Copy(from.slot(), to)); };
      Time(2, fork);
      std::printf("fork to %2d slots of %.1f MB: %.1f us\n", count, 1e-6 * bytes,
                  1e6 * Time(10, fork).first / 10);
    }
    Bytes image(bytes);
    Must(slots_->Export(from.slot(), absl::MakeSpan(image)));
    double begin = Now();
    for (int i = 0; i < 5; ++i) Must(slots_->Export(from.slot(), absl::MakeSpan(image)));
    const double out = (Now() - begin) / 5;
    begin = Now();
    for (int i = 0; i < 5; ++i) Must(slots_->Import(from.slot(), image));
    const double in = (Now() - begin) / 5;
    std::printf("export %.2f ms (%.1f GB/s), import %.2f ms (%.1f GB/s)\n", 1e3 * out,
                1e-9 * bytes / out, 1e3 * in, 1e-9 * bytes / in);
  }

  // From a session in Redis to the end of the first decode step, against prefilling the same
  // tokens.
  void Resume(const std::string& url) {
    state_store::redis::RedisStoreOptions options;
    options.client.url = url;
    const auto store = Must(state_store::redis::RedisStore::Create(options));
    const models::StateLayout& layout = loaded_.model->state_layout();
    const scheduler::ModelIdentity identity = {
        .model_id = "bench",
        .weights_fingerprint = loaded_.model->info().weights_fingerprint,
        .tokenizer_fingerprint = "",
        .layout_digest = layout.Digest(),
        .numerics_id = layout.numerics_id()};
    SlotHandle slot = Must(slots_->Acquire());
    Feed(slot.slot(), 0, 2304);
    scheduler::SessionLegs legs;
    legs.sequence.position = 2304;
    legs.sequence.pending = Token(2304);
    legs.sequence.image.resize(layout.bytes());
    Must(slots_->Export(slot.slot(), absl::MakeSpan(legs.sequence.image)));
    const std::string session = "s" + std::to_string(static_cast<int64_t>(1e6 * Now()));
    Must(store->CreateSession("bench", {.id = session}).status());
    const state_store::Snapshot snapshot = Must(MakeSnapshot(identity, layout, legs));
    const double begin = Now();
    Must(store
             ->PutAndCommit("bench", session, 1, snapshot,
                            {.durability = state_store::Durability::kSync})
             .status());
    std::printf("snapshot of %.1f MB to Redis: %.2f ms\n", 1e-6 * layout.bytes(),
                1e3 * (Now() - begin));
    std::vector<double> seconds;
    for (int i = 0; i < 21; ++i) {
      const double start = Now();
      const state_store::Snapshot read = Must(store->ReadSnapshot("bench", session, ""));
      const scheduler::SessionLegs back = Must(RestoreSnapshot(identity, layout, read));
      Must(slots_->Import(slot.slot(), back.sequence.image));
      Feed(slot.slot(), back.sequence.position, 1);
      Must(queue_->Synchronize());
      seconds.push_back(Now() - start);
    }
    std::sort(seconds.begin(), seconds.end());
    std::printf("resume from Redis to the first decode step: p50 %.2f ms, worst %.2f ms\n",
                1e3 * seconds[seconds.size() / 2], 1e3 * seconds.back());
    for (const int64_t tokens : {2048, 8192, 32768, 131072}) {
      const double start = Now();
      Feed(slot.slot(), 0, tokens);
      Must(queue_->Synchronize());
      const double took = Now() - start;
      std::printf("  prefill of %6ld tokens instead: %8.1f ms, %5.1f times as long\n", tokens,
                  1e3 * took, took / seconds[seconds.size() / 2]);
    }
    Must(store->DeleteSession("bench", session));
  }

  // What snapshots cost the sequences that go on decoding.
  void DecodeUnderSnapshots(int batch, double per_second) {
    std::vector<SlotHandle> handles;
    RaggedBatch step;
    for (int i = 0; i < batch; ++i) {
      handles.push_back(Must(slots_->Acquire()));
      step.tokens.push_back(Token(i));
      step.seq_offsets.push_back(i + 1);
      step.slots.push_back(handles.back().slot());
      step.start_positions.push_back(4096);
      step.logit_rows.push_back(i);
    }
    Bytes image(loaded_.model->state_layout().bytes());
    double took[2] = {1e9, 1e9};
    int exported = 0;
    for (int round = 0; round < 6; ++round) {
      const bool with = round % 2 == 1;
      models::StateTransfer transfer;
      Must(queue_->Synchronize());
      const double begin = Now();
      double next = begin;
      constexpr int kSteps = 200;
      for (int i = 0; i < kSteps; ++i) {
        Must(loaded_.model->ForwardOnDevice(step, *slots_).status());
        for (int64_t& start : step.start_positions) ++start;
        if (with && transfer.valid() && Must(slots_->Done(transfer))) {
          Must(slots_->FinishExport(std::move(transfer), absl::MakeSpan(image)));
          ++exported;
        }
        if (with && !transfer.valid() && Now() >= next) {
          transfer = Must(slots_->BeginExport(handles[i % batch].slot()));
          next += 1 / per_second;
        }
        if (i % 4 == 3) Must(queue_->Synchronize());  // as a server that hears of its tokens
      }
      Must(queue_->Synchronize());
      took[with] = std::min(took[with], (Now() - begin) / kSteps);
    }
    std::printf(
        "decode batch %d: %.3f ms/step, with %.0f snapshots/s %.3f ms/step (%+.1f%%; %d made)\n",
        batch, 1e3 * took[0], per_second, 1e3 * took[1], 100 * (took[1] / took[0] - 1), exported);
  }

 private:
  int chunk_;
  std::unique_ptr<kernels::ThreadPool> pool_;
  std::unique_ptr<DeviceQueue> queue_;
  kernels::Context context_;
  models::LoadedModel loaded_;
  std::unique_ptr<models::StateSlots> slots_;
  double bandwidth_ = 0;
};

int Main(int argc, char** argv) {
  CLI::App app{"The engine on a CUDA device"};
  std::string model;
  std::vector<int> batches = {1, 8, 32, 64, 128, 256};
  std::vector<int64_t> lengths = {8192, 131072};
  int chunk = 8192;
  app.add_option("--model", model, "checkpoint folder")->required();
  app.add_option("--batches", batches, "decode batch sizes")->delimiter(',');
  app.add_option("--prefill", lengths, "prompt lengths")->delimiter(',');
  std::string redis;
  std::string weight_format = "checkpoint";
  app.add_option("--weight-format", weight_format, "as of reprised")
      ->check(CLI::IsMember({"checkpoint", "fp8"}));
  app.add_option("--chunk", chunk, "rows of a prefill step");
  app.add_option("--redis", redis, "also time a resume from the Redis at this URL");
  CLI11_PARSE(app, argc, argv);
  const int most =
      std::max(65, batches.empty() ? 1 : *std::max_element(batches.begin(), batches.end()));
  Bench bench(model, models::WeightFormatOf(weight_format), chunk, most + 1);
  for (const int batch : batches) bench.Decode(batch);
  for (const int64_t length : lengths) bench.Prefill(length);
  bench.States();
  bench.DecodeUnderSnapshots(64, 10);
  if (!redis.empty()) bench.Resume(redis);
  return 0;
}

}  // namespace
}  // namespace reprise

int main(int argc, char** argv) { return reprise::Main(argc, argv); }
