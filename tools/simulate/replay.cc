#include "tools/simulate/replay.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <queue>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "scheduler/scheduler_error.h"
#include "tools/simulate/random.h"

namespace reprise::simulate {
namespace {

constexpr int kMaxAttempts = 8;

class Replayer {
 public:
  Replayer(ScriptSource* source, models::HybridModel* model, bool resend_history)
      : source_(source), vocab_(model->info().vocab_size), resend_history_(resend_history) {}

  absl::StatusOr<Report> Run(models::HybridModel* model, const kernels::Context& context,
                             const scheduler::SchedulerOptions& options) {
    ASSIGN_OR_RETURN(scheduler_, scheduler::Scheduler::Create(model, context, &clock_, options));
    begin_ = clock_.Now();
    report_.num_slots = options.num_slots;
    report_.with_scheduler = 1;
    Script script;
    while (source_->Next(&script)) {
      report_.turns += static_cast<int64_t>(script.turns.size());
      scripts_.push_back({std::move(script), {}, {}});
      Running& running = scripts_.back();
      running.ends.resize(running.script.turns.size());
      running.texts.resize(running.script.turns.size());
      for (size_t turn = 0; turn < running.script.turns.size(); ++turn) {
        if (running.script.turns[turn].after >= 0) continue;
        due_.push({begin_ + absl::Seconds(running.script.start), scripts_.size() - 1, turn, 0});
      }
    }
    report_.tenant_names = source_->tenants().names();
    report_.tenants.resize(report_.tenant_names.size());
    report_.tenant_weights.assign(report_.tenant_names.size(), 1);
    while (broken_.ok()) {
      while (!due_.empty() && due_.top().at <= clock_.Now()) {
        const Due due = due_.top();
        due_.pop();
        Submit(due);
      }
      const absl::Time before = clock_.Now();
      if (scheduler_->Step()) {
        const double seconds = absl::ToDoubleSeconds(clock_.Now() - before);
        report_.busy_seconds += seconds;
        report_.slot_seconds += seconds * scheduler_->stats().running;
      } else if (!due_.empty()) {
        absl::SleepFor(std::max(due_.top().at - clock_.Now(), absl::ZeroDuration()));
      } else if (scheduler_->Idle()) {
        break;
      }
    }
    RETURN_IF_ERROR(broken_);
    RETURN_IF_ERROR(scheduler_->CheckIntegrity());
    const scheduler::SchedulerStats stats = scheduler_->stats();
    report_.steps = stats.steps;
    report_.rows = stats.prefill_tokens + stats.decode_tokens;
    report_.parks = stats.parks;
    report_.duration = report_.replica_seconds = absl::ToDoubleSeconds(last_end_ - begin_);
    report_.load_mean = report_.load_max = static_cast<double>(report_.turns);
    if (const std::string wrong = report_.Conservation(); !wrong.empty()) {
      return absl::InternalError(wrong);
    }
    return std::move(report_);
  }

 private:
  struct Running {
    Script script;
    // After each turn: its state; or, where histories are sent again, all of its tokens.
    std::vector<std::optional<scheduler::SequenceState>> ends;
    std::vector<std::vector<int32_t>> texts;
  };
  struct Due {
    absl::Time at;
    size_t script, turn;
    int attempts;
    absl::Time arrival = absl::InfiniteFuture();  // of the first attempt
    bool operator<(const Due& other) const { return at > other.at; }
  };

  class Observer final : public scheduler::RequestObserver {
   public:
    Observer(Replayer* replayer, const Due& due) : replayer_(replayer), due_(due) {}
    Verdict OnToken(const kernels::SampledToken&) override {
      const absl::Time now = replayer_->clock_.Now();
      replayer_->OnToken(due_, now - (tokens_ == 0 ? due_.arrival : last_), tokens_ == 0);
      ++tokens_;
      last_ = now;
      return Verdict::kContinue;
    }
    void OnFinish(scheduler::RequestResult result) override {
      replayer_->OnFinish(due_, std::move(result));
    }

   private:
    Replayer* const replayer_;
    const Due due_;
    int64_t tokens_ = 0;
    absl::Time last_;
  };

  const Turn& turn(const Due& due) const { return scripts_[due.script].script.turns[due.turn]; }

  void Submit(Due due) {
    due.arrival = std::min(due.arrival, due.at);
    const Turn& turn = this->turn(due);
    scheduler::Request request;
    request.tenant = source_->tenants().names()[turn.tenant];
    request.priority = turn.priority == TurnPriority::kLow    ? scheduler::Priority::kLow
                       : turn.priority == TurnPriority::kHigh ? scheduler::Priority::kHigh
                                                              : scheduler::Priority::kNormal;
    const bool goes_on = turn.after >= 0 && turn.session >= 0;
    Running& running = scripts_[due.script];
    if (goes_on && resend_history_) request.prompt = running.texts[turn.after];
    const auto append = [&](uint64_t stream, int32_t count) {
      for (int32_t i = 0; i < count; ++i) {
        request.prompt.push_back(static_cast<int32_t>(Mix64(stream + i) % vocab_));
      }
    };
    for (const PrefixPart& part : turn.prefix) append(Mix64(~uint64_t{0}, part.name), part.tokens);
    for (int32_t token : turn.tokens) request.prompt.push_back(token % vocab_);
    append(Mix64(due.script, due.turn), turn.own_tokens);
    request.max_tokens = turn.output;
    request.export_state = turn.session >= 0 && !resend_history_;
    if (goes_on && !resend_history_) {
      request.state = running.ends[turn.after];
      ++report_.states_local;
    }
    if (resend_history_) running.texts[due.turn] = request.prompt;
    request.observer = std::make_shared<Observer>(this, due);
    const auto submitted = scheduler_->Submit(std::move(request));
    if (submitted.ok()) return;
    if (!absl::IsResourceExhausted(submitted.status())) {
      broken_.Update(submitted.status());
      return;
    }
    const absl::Duration delay =
        scheduler::GetRetryDelay(submitted.status()).value_or(absl::Seconds(1));
    ++report_.rejections;
    report_.retry_delay.Add(absl::ToInt64Nanoseconds(delay));
    due.at = clock_.Now() + delay;
    if (++due.attempts < kMaxAttempts) {
      due_.push(due);
    } else {
      broken_.Update(submitted.status());
    }
  }

  void OnToken(const Due& due, absl::Duration time, bool first) {
    LatencyStats& tenant = report_.tenants[turn(due).tenant];
    (first ? report_.all.ttft : report_.all.itl).Add(absl::ToInt64Nanoseconds(time));
    (first ? tenant.ttft : tenant.itl).Add(absl::ToInt64Nanoseconds(time));
  }

  void OnFinish(const Due& due, scheduler::RequestResult result) {
    const Turn& turn = this->turn(due);
    if (!result.status.ok() || static_cast<int32_t>(result.generated.size()) != turn.output) {
      broken_.Update(
          absl::InternalError(absl::StrCat("a turn ended after ", result.generated.size(), " of ",
                                           turn.output, " tokens: ", result.status.ToString())));
      return;
    }
    const absl::Time now = last_end_ = clock_.Now();
    ++report_.completed;
    for (LatencyStats* stats : {&report_.all, &report_.tenants[turn.tenant]}) {
      stats->latency.Add(absl::ToInt64Nanoseconds(now - due.arrival));
      stats->queue.Add(absl::ToInt64Nanoseconds(result.timeline.queue));
      ++stats->completed;
      stats->prompt_tokens += turn.prompt_tokens();
      stats->output_tokens += turn.output;
    }
    report_.tenants[turn.tenant].computed_rows += static_cast<double>(result.computed_tokens);
    report_.exports += result.state.has_value();
    report_.cache_hits += result.reuse.cached_tokens > 0;
    report_.cached_tokens += result.reuse.cached_tokens;
    report_.fed_tokens += result.computed_tokens + result.reuse.cached_tokens;
    Running& running = scripts_[due.script];
    std::vector<int32_t>& text = running.texts[due.turn];
    text.insert(text.end(), result.generated.begin(), result.generated.end());
    running.ends[due.turn] = std::move(result.state);
    for (size_t next = due.turn + 1; next < running.script.turns.size(); ++next) {
      const Turn& child = running.script.turns[next];
      if (child.after != static_cast<int32_t>(due.turn)) continue;
      due_.push(
          {std::max(now + absl::Seconds(child.delay), begin_ + absl::Seconds(child.not_before)),
           due.script, next, 0});
    }
  }

  ScriptSource* const source_;
  const int32_t vocab_;
  const bool resend_history_;
  RealClock clock_;
  absl::Time begin_, last_end_;
  std::vector<Running> scripts_;
  std::priority_queue<Due> due_;
  absl::Status broken_;
  Report report_;
  std::unique_ptr<scheduler::Scheduler> scheduler_;  // last: its observers point here
};

}  // namespace

absl::StatusOr<Report> Replay(ScriptSource& source, models::HybridModel* model,
                              const kernels::Context& context,
                              const scheduler::SchedulerOptions& options, bool resend_history) {
  return Replayer(&source, model, resend_history).Run(model, context, options);
}

}  // namespace reprise::simulate
