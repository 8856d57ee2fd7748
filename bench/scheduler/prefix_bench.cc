// What the prefix cache costs, and what it saves.
//
// cost: lookups and inserts of prompts of 32k tokens, with 10,000 states kept along 100 of them.
// chat: conversations whose clients send the whole history with every turn, after a system prompt
// that all have in common; time to first token with the cache and without, on a real model
// (--model).
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "models/load_model.h"
#include "scheduler/prefix_cache/prefix_cache.h"
#include "scheduler/scheduler.h"

namespace reprise::scheduler {
namespace {

using Tokens = std::vector<int32_t>;

double Percentile(std::vector<double> values, double part) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(part * static_cast<double>(values.size() - 1))];
}

void Print(const char* name, const std::vector<double>& values, const char* unit) {
  std::printf("%-44s %9.2f %9.2f %s\n", name, Percentile(values, 0.5), Percentile(values, 0.99),
              unit);
}

Tokens RandomTokens(std::mt19937& random, int count, int vocab) {
  Tokens tokens(count);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % vocab);
  return tokens;
}

template <typename Body>
double Microseconds(Body body) {
  const absl::Time begin = absl::Now();
  body();
  return absl::ToDoubleMicroseconds(absl::Now() - begin);
}

int Cost() {
  constexpr int kPrompts = 100, kStates = 100, kLength = 32'768, kVocab = 32'000;
  RealClock clock;
  PrefixCacheOptions options;
  options.max_bytes = int64_t{4} << 30;
  auto cache = *PrefixCache::Create(&clock, options);
  const PrefixScope scope{"tenant", "model", ""};
  const auto image = std::make_shared<const Bytes>(4096, 0);
  std::mt19937 random(1);
  std::vector<Tokens> prompts;
  std::vector<double> inserts, hits, branches;
  for (int i = 0; i < kPrompts; ++i) {
    prompts.push_back(RandomTokens(random, kLength, kVocab));
    for (int j = 1; j <= kStates; ++j) {
      const absl::Span<const int32_t> path(prompts.back().data(), kLength * j / (kStates + 1));
      inserts.push_back(Microseconds([&] { cache->Insert(scope, path, image); }));
    }
  }
  for (int i = 0; i < 1000; ++i) {
    const Tokens& known = prompts[random() % kPrompts];
    hits.push_back(Microseconds([&] { cache->Lookup(scope, known, kLength - 1); }));
    Tokens other = known;
    other[random() % kLength] = -1;  // parts from it somewhere, and is remembered
    branches.push_back(Microseconds([&] { cache->Lookup(scope, other, kLength - 1); }));
  }
  const PrefixCacheStats stats = cache->TotalStats();
  std::printf("%lld states, %.0f MB of paths\n%-44s %9s %9s\n",
              static_cast<long long>(stats.entries), static_cast<double>(stats.path_bytes) / 1e6,
              "", "median", "p99");
  Print("insert", inserts, "us");
  Print("lookup, prompt known", hits, "us");
  Print("lookup, prompt new from some token on", branches, "us");
  return 0;
}

class Waiter final : public RequestObserver {
 public:
  Verdict OnToken(const kernels::SampledToken&) override { return Verdict::kContinue; }
  void OnFinish(RequestResult finished) override {
    result = std::move(finished);
    done = true;
  }
  RequestResult result;
  bool done = false;
};

absl::Status Chat(const std::string& directory, int threads, bool cached) {
  constexpr int kChats = 8, kTurns = 6, kSystem = 300, kUser = 40, kAnswer = 32;
  auto pool = kernels::ThreadPool::Create(threads);
  if (!pool.ok()) return pool.status();
  kernels::Context context;
  context.pool = pool->get();
  models::LoadOptions load;
  load.context = context;
  load.max_rows = 256;
  auto loaded = models::LoadModel(directory, load);
  if (!loaded.ok()) return loaded.status();
  RealClock clock;
  SchedulerOptions options;
  if (cached) options.prefix_cache = *PrefixCache::Create(&clock, {});
  auto scheduler = Scheduler::Create(loaded->model.get(), context, &clock, options);
  if (!scheduler.ok()) return scheduler.status();
  const int vocab = loaded->model->info().vocab_size;
  std::mt19937 random(7);
  const Tokens system = RandomTokens(random, kSystem, vocab);
  std::vector<Tokens> chats(kChats, system);
  std::vector<double> first;
  int64_t prompt_tokens = 0, computed = 0, reused = 0;
  const absl::Time begin = absl::Now();
  for (int turn = 0; turn < kTurns; ++turn) {
    for (Tokens& chat : chats) {
      const Tokens user = RandomTokens(random, kUser, vocab);
      chat.insert(chat.end(), user.begin(), user.end());
      const auto waiter = std::make_shared<Waiter>();
      Request request;
      request.prompt = chat;
      request.max_tokens = kAnswer;
      request.observer = waiter;
      if (absl::Status status = (*scheduler)->Submit(std::move(request)).status(); !status.ok()) {
        return status;
      }
      while (!waiter->done) (*scheduler)->Step();
      if (!waiter->result.status.ok()) return waiter->result.status;
      prompt_tokens += static_cast<int64_t>(chat.size());
      computed += waiter->result.computed_tokens;
      reused += waiter->result.reuse.cached_tokens;
      first.push_back(absl::ToDoubleMilliseconds(waiter->result.timeline.time_to_first_token));
      const Tokens& answer = waiter->result.generated;
      chat.insert(chat.end(), answer.begin(), answer.end());
    }
  }
  std::printf("%s: %lld prompt tokens, %lld reused, %lld rows computed, %.2f s in all\n",
              cached ? "with the cache" : "without", static_cast<long long>(prompt_tokens),
              static_cast<long long>(reused), static_cast<long long>(computed),
              absl::ToDoubleSeconds(absl::Now() - begin));
  Print("time to first token", first, "ms");
  return absl::OkStatus();
}

}  // namespace

int Main(int argc, char** argv) {
  std::string model;
  int threads = 2;
  CLI::App app("Prefix cache: cost and gain");
  app.add_option("--model", model, "checkpoint folder for the chat trace");
  app.add_option("--threads", threads, "that compute");
  CLI11_PARSE(app, argc, argv);
  if (Cost() != 0) return 1;
  if (model.empty()) return 0;
  for (const bool cached : {false, true, false, true}) {
    if (absl::Status status = Chat(model, threads, cached); !status.ok()) {
      std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
      return 1;
    }
  }
  return 0;
}

}  // namespace reprise::scheduler

int main(int argc, char** argv) { return reprise::scheduler::Main(argc, argv); }
