// End-to-end figures of one model on this machine, in process: prefill and decode rates through the
// scheduler, and what fork, snapshot and resume cost. Prints one JSON object; bench/engine/run.py
// puts it beside transformers and writes the table.
//
//   engine_bench --model DIR [--threads N] [--prompt-tokens N] [--decode-tokens N] [--repeats N]
//                [--weight-format fp8]
#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "base/clock.h"
#include "bench/engine/memory_bandwidth.h"
#include "bench/must.h"
#include "models/load_model.h"
#include "scheduler/scheduler.h"
#include "scheduler/session_state.h"
#include "state_store/disk_store.h"

namespace reprise {
namespace {

using kernels::SampledToken;

// Notes when tokens come, and keeps the final state.
class TimingObserver final : public scheduler::RequestObserver {
 public:
  Verdict OnToken(const SampledToken&) override {
    if (tokens_++ == 0) first_token = absl::Now();
    return Verdict::kContinue;
  }
  void OnFinish(scheduler::RequestResult finished) override {
    last_token = absl::Now();
    result = std::move(finished);
  }
  absl::Time first_token, last_token;
  scheduler::RequestResult result;

 private:
  int tokens_ = 0;
};

struct Options {
  std::string model;
  int threads = 2;
  int prompt_tokens = 512;
  int decode_tokens = 128;
  int repeats = 5;
  std::string weight_format = "checkpoint";
};

using bench::Must;

class Bench {
 public:
  explicit Bench(const Options& options) : options_(options) {
    pool_ = Must(kernels::ThreadPool::Create(options.threads));
    context_.pool = pool_.get();
    models::LoadOptions load;
    load.context = context_;
    load.max_rows = 512;
    load.weight_format = models::WeightFormatOf(options.weight_format);
    loaded_ = Must(models::LoadModel(options.model, load));
  }

  nlohmann::json Run() {
    const models::ModelInfo& info = loaded_.model->info();
    nlohmann::json out;
    out["parameters"] = info.num_parameters;
    out["dtype"] = info.dtype;
    // What a decode step reads: everything but the embedding table, of which it reads a few rows.
    const size_t element_bytes = info.dtype == "f32" ? 4 : 2;
    const size_t step_bytes =
        info.weight_bytes - element_bytes * info.vocab_size * info.hidden_size;
    out["step_weight_bytes"] = step_bytes;
    out["state_bytes"] = loaded_.model->state_layout().bytes();
    out["threads"] = options_.threads;
    out["bandwidth_bytes_per_second"] = bench::ReadBandwidth(*pool_, step_bytes);
    out["prefill_tokens_per_second"] = Best([&] { return Prefill(); });
    for (int batch : {1, 8, 32}) {
      out["decode_tokens_per_second"][std::to_string(batch)] = Best([&] { return Decode(batch); });
    }
    out["bandwidth_bytes_per_second_after"] = bench::ReadBandwidth(*pool_, step_bytes);
    Sessions(out);
    return out;
  }

 private:
  template <typename Fn>
  double Best(Fn rate) {
    double best = 0;
    for (int i = 0; i < options_.repeats; ++i) best = std::max(best, rate());
    return best;
  }

  std::unique_ptr<scheduler::Scheduler> NewScheduler(int slots) {
    scheduler::SchedulerOptions options;
    options.num_slots = slots;
    options.step_tokens = 512;
    options.prefill_chunk_tokens = 256;
    options.step_logit_rows = 64;
    return Must(scheduler::Scheduler::Create(loaded_.model.get(), context_, &clock_, options));
  }

  scheduler::Request NewRequest(int prompt_tokens, int max_tokens, uint32_t salt) {
    scheduler::Request request;
    request.tenant = "bench";
    const uint32_t vocab = loaded_.model->info().vocab_size;
    for (int i = 0; i < prompt_tokens; ++i) {
      request.prompt.push_back(static_cast<int32_t>((i * 2654435761u + salt * 40503u) % vocab));
    }
    request.max_tokens = max_tokens;
    return request;
  }

  double Prefill() {
    std::unique_ptr<scheduler::Scheduler> loop = NewScheduler(1);
    scheduler::Request request = NewRequest(options_.prompt_tokens, 1, ++salt_);
    auto observer = std::make_shared<TimingObserver>();
    request.observer = observer;
    const absl::Time begin = absl::Now();
    Must(loop->Submit(std::move(request)));
    while (!loop->Idle()) loop->Step();
    return options_.prompt_tokens / absl::ToDoubleSeconds(observer->first_token - begin);
  }

  double Decode(int batch) {
    std::unique_ptr<scheduler::Scheduler> loop = NewScheduler(batch);
    std::vector<std::shared_ptr<TimingObserver>> observers;
    for (int i = 0; i < batch; ++i) {
      scheduler::Request request = NewRequest(8, options_.decode_tokens, ++salt_);
      observers.push_back(std::make_shared<TimingObserver>());
      request.observer = observers.back();
      Must(loop->Submit(std::move(request)));
    }
    while (!loop->Idle()) loop->Step();
    // From the step in which the last sequence had its first token to the step that ended the
    // first.
    absl::Time begin = absl::InfinitePast(), end = absl::InfiniteFuture();
    for (const auto& observer : observers) {
      begin = std::max(begin, observer->first_token);
      end = std::min(end, observer->last_token);
    }
    return batch * (options_.decode_tokens - 1) / absl::ToDoubleSeconds(end - begin);
  }

  void Sessions(nlohmann::json& out) {
    const models::StateLayout& layout = loaded_.model->state_layout();
    const scheduler::ModelIdentity identity{"bench", loaded_.model->info().weights_fingerprint, "",
                                            layout.Digest(), layout.numerics_id()};
    const std::filesystem::path directory =
        std::filesystem::temp_directory_path() / ("reprise-bench-" + std::to_string(::getpid()));
    std::filesystem::create_directories(directory);
    state_store::DiskStoreOptions disk;
    disk.directory = directory / "store";
    state_store::OpenedDiskStore opened = Must(state_store::OpenDiskStore(disk));
    state_store::SessionStore& store = *opened.store;
    std::unique_ptr<scheduler::Scheduler> loop = NewScheduler(1);
    scheduler::Request request = NewRequest(700, 8, 1);
    request.export_state = true;
    auto observer = std::make_shared<TimingObserver>();
    request.observer = observer;
    Must(loop->Submit(std::move(request)));
    while (!loop->Idle()) loop->Step();
    scheduler::SessionLegs legs;
    legs.sequence = *observer->result.state;

    const auto best_ms = [&](auto fn) {
      double best = 1e30;
      for (int i = 0; i < options_.repeats * 2; ++i) {
        const absl::Time begin = absl::Now();
        fn(i);
        best = std::min(best, absl::ToDoubleMilliseconds(absl::Now() - begin));
      }
      return best;
    };
    Must(store.CreateSession("bench", {.id = "s"}));
    uint64_t version = 1;
    const auto commit = [&](state_store::Durability durability) {
      legs.sequence.image[0] ^= 1;  // a new state: its first chunk is not in the store yet
      const state_store::Snapshot snapshot = Must(MakeSnapshot(identity, layout, legs));
      version =
          Must(store.PutAndCommit("bench", "s", version, snapshot, {.durability = durability}))
              .version;
    };
    out["snapshot_async_ms"] = best_ms([&](int) { commit(state_store::Durability::kAsync); });
    out["snapshot_sync_ms"] = best_ms([&](int) { commit(state_store::Durability::kSync); });
    out["fork_ms"] = best_ms([&](int i) {
      Must(store.Fork("bench", {.session_id = "s"}, {.id = "f" + std::to_string(i)}));
    });
    std::unique_ptr<models::StateSlots> slots =
        Must(models::StateSlots::Create(layout, 2, context_));
    const models::SlotHandle a = Must(slots->Acquire()), b = Must(slots->Acquire());
    out["fork_in_slots_ms"] = best_ms([&](int) {
      if (!slots->Copy(a.slot(), b.slot()).ok()) std::exit(1);
    });
    out["resume_ms"] = best_ms([&](int) {
      const state_store::Snapshot snapshot = Must(store.ReadSnapshot("bench", "s", ""));
      const scheduler::SessionLegs back = Must(RestoreSnapshot(identity, layout, snapshot));
      if (!slots->Import(a.slot(), back.sequence.image).ok()) std::exit(1);
    });
    opened.store.reset();
    std::filesystem::remove_all(directory);
  }

  Options options_;
  RealClock clock_;
  std::unique_ptr<kernels::ThreadPool> pool_;
  kernels::Context context_;
  models::LoadedModel loaded_;
  uint32_t salt_ = 0;
};

}  // namespace
}  // namespace reprise

int main(int argc, char** argv) {
  reprise::Options options;
  CLI::App app("End-to-end benchmark of one model");
  app.add_option("--model", options.model, "checkpoint folder")->required();
  app.add_option("--threads", options.threads, "compute threads");
  app.add_option("--prompt-tokens", options.prompt_tokens, "prompt of the prefill figure");
  app.add_option("--decode-tokens", options.decode_tokens, "tokens that each sequence decodes");
  app.add_option("--repeats", options.repeats, "best of");
  app.add_option("--weight-format", options.weight_format, "as of reprised")
      ->check(CLI::IsMember({"checkpoint", "fp8"}));
  CLI11_PARSE(app, argc, argv);
  std::cout << reprise::Bench(options).Run().dump() << "\n";
  return 0;
}
