// The life of one turn: routed, submitted, answered, and what follows from it.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "scheduler/scheduler_error.h"
#include "tools/simulate/random.h"
#include "tools/simulate/simulation_state.h"

namespace reprise::simulate {

namespace {

scheduler::Priority SchedulerPriority(TurnPriority priority) {
  switch (priority) {
    case TurnPriority::kLow:
      return scheduler::Priority::kLow;
    case TurnPriority::kHigh:
      return scheduler::Priority::kHigh;
    default:
      return scheduler::Priority::kNormal;
  }
}

}  // namespace

class Simulation::Observer final : public scheduler::RequestObserver {
 public:
  Observer(Simulation* simulation, uint32_t live) : simulation_(simulation), live_(live) {}
  Verdict OnToken(const kernels::SampledToken&) override {
    simulation_->OnToken(live_);
    return Verdict::kContinue;
  }
  void OnFinish(scheduler::RequestResult result) override { simulation_->OnFinish(live_, result); }

 private:
  Simulation* const simulation_;
  const uint32_t live_;
};

LatencyStats& Simulation::TenantStats(uint32_t tenant) {
  if (report_.tenants.size() <= tenant) report_.tenants.resize(tenant + 1);
  return report_.tenants[tenant];
}

int64_t Simulation::StateTokens(const LiveScript& script, const Turn& turn) const {
  return options_.resend_history ? 0 : HistoryTokens(script, turn);
}

int64_t Simulation::HistoryTokens(const LiveScript& script, const Turn& turn) const {
  if (turn.after < 0 || turn.session < 0) return 0;
  return script.end_tokens[turn.after];
}

void Simulation::Arrive(uint32_t script, int32_t turn) {
  uint32_t place;
  if (free_lives_.empty()) {
    place = lives_.size();
    lives_.emplace_back();
  } else {
    place = free_lives_.back();
    free_lives_.pop_back();
  }
  Live& live = lives_[place];
  const uint32_t epoch = live.epoch + 1;
  live = Live();
  live.epoch = epoch;
  live.used = true;
  live.script = script;
  live.turn = turn;
  live.arrival = now();
  live.measured = live.arrival >= FromSeconds(options_.warmup);
  Submit(place);
}

int Simulation::Choose(const Live& live) const {
  const LiveScript& script = scripts_[live.script];
  const int32_t session = script.script.turns[live.turn].session;
  const uint64_t part =
      session >= 0 ? (options_.route_by_root ? 0 : session) : (uint64_t{1} << 32) + live.turn;
  const uint64_t key = Mix64(Mix64(options_.seed, script.script.id), part);
  if (options_.load_bound == 0) return ring_.Route(key);
  return ring_.RouteBounded(key, loads_, total_load_, options_.load_bound);
}

void Simulation::Submit(uint32_t index) {
  Live& live = lives_[index];
  const LiveScript& script = scripts_[live.script];
  const Turn& turn = script.script.turns[live.turn];
  ++live.epoch;
  live.submitted = live.ready = now();
  live.drawn = live.saved_drawn;
  live.first_token = -1;
  const int replica = Choose(live);
  if (replica < 0) {
    Refused(index, FromSeconds(options_.retry_delay));
    return;
  }
  live.replica = replica;
  live.under_way = ++loads_[replica];
  ++total_load_;
  ++replicas_[replica].turns;
  const int64_t state_tokens =
      live.saved_tokens > 0 ? live.saved_tokens : StateTokens(script, turn);
  live.restored = state_tokens > 1;  // one token is only pending: there is no state yet
  if (live.restored) live.ready = FindState(live, replica);
  if (replicas_[replica].real) {
    SubmitToScheduler(index, state_tokens);
  } else {
    SubmitToSurrogate(index);
  }
}

SimTime Simulation::FindState(const Live& live, int replica) {
  const LiveScript& script = scripts_[live.script];
  SimTime committed = 0;
  if (live.saved_tokens == 0) {
    const int32_t before = script.script.turns[live.turn].after;
    const SessionPlace& place = script.sessions[script.script.turns[before].session];
    report_.sessions_moved += place.replica != replica;
    if (place.replica == replica && replicas_[replica].tier.Has(place.entry)) {
      ++report_.states_local;
      return now();
    }
    committed = place.committed;
  }
  ++report_.states_from_store;
  return std::max(now(), committed) + FromSeconds(StoreSeconds(options_.device));
}

void Simulation::SubmitToScheduler(uint32_t index, int64_t state_tokens) {
  Live& live = lives_[index];
  Replica& replica = replicas_[live.replica];
  const LiveScript& script = scripts_[live.script];
  const Turn& turn = script.script.turns[live.turn];
  scheduler::Request request;
  request.tenant = source_->tenants().names()[turn.tenant];
  request.priority = SchedulerPriority(turn.priority);
  request.max_tokens = turn.output - live.saved_drawn;
  if (options_.deadline < kMaxSeconds) {
    request.deadline = clock_.At(live.arrival + FromSeconds(options_.deadline));
  }
  request.export_state = !options_.resend_history && turn.session >= 0;
  if (live.saved_tokens == 0) {
    if (options_.resend_history && HistoryTokens(script, turn) > 0) {
      if (HistoryTokens(script, turn) + turn.prompt_tokens() > kMaxPromptTokens) {
        Leave(live);
        Fail(index, absl::InvalidArgumentError("the conversation has grown too long to resend"));
        return;
      }
      AppendHistory(script, turn.after, &request.prompt);
    }
    AppendPrompt(script, live.turn, &request.prompt);
  }
  if (state_tokens > 0 && live.ready <= now()) {
    request.state = replica.model->StateAfter(state_tokens);
  } else if (state_tokens > 0) {
    live.source = std::make_shared<scheduler::StateFuture>();
    request.state_source = live.source;
    Push(live.ready, EventKind::kState, index, live.epoch);
  }
  request.observer = std::make_shared<Observer>(this, index);
  const absl::StatusOr<scheduler::RequestId> submitted =
      replica.scheduler->Submit(std::move(request));
  if (submitted.ok()) {
    Wake(live.replica);
  } else if (absl::IsResourceExhausted(submitted.status())) {
    const std::optional<absl::Duration> delay = scheduler::GetRetryDelay(submitted.status());
    Refused(index, delay.has_value() ? std::max<SimTime>(absl::ToInt64Nanoseconds(*delay), 1)
                                     : FromSeconds(options_.retry_delay));
  } else {
    Leave(live);
    Fail(index, submitted.status());
  }
}

void Simulation::SubmitToSurrogate(uint32_t index) {
  Live& live = lives_[index];
  const LiveScript& script = scripts_[live.script];
  const Turn& turn = script.script.turns[live.turn];
  if (live.under_way > options_.scheduler.num_slots + options_.scheduler.max_queued) {
    Refused(index, FromSeconds(options_.retry_delay));
    return;
  }
  const Alone alone = AloneSeconds(script, turn);
  const Surrogate::Slowdown slowdown = surrogate_.Predict(live.under_way);
  live.end =
      live.ready + FromSeconds(alone.prefill * slowdown.prefill + alone.decode * slowdown.decode);
  Push(live.end, EventKind::kServed, index, live.epoch);
}

Simulation::Alone Simulation::AloneSeconds(const LiveScript& script, const Turn& turn) const {
  const DeviceModel& device = options_.device;
  const int64_t state = StateTokens(script, turn);
  const int64_t position = std::max<int64_t>(state - 1, 0);
  const int64_t rows = turn.prompt_tokens() + (state > 0 ? 1 : 0) +
                       (options_.resend_history ? HistoryTokens(script, turn) : 0);
  Alone alone;
  alone.prefill = AlonePrefillSeconds(device, position, rows, options_.scheduler.step_tokens);
  if (position > 0) alone.prefill += ImportSeconds(device);
  alone.decode = AloneDecodeSeconds(device, position + rows, std::max(turn.output - 1, 0));
  return alone;
}

void Simulation::AppendPrompt(const LiveScript& script, int32_t index,
                              std::vector<int32_t>* tokens) const {
  const Turn& turn = script.script.turns[index];
  tokens->reserve(tokens->size() + turn.prompt_tokens());
  const auto append = [&](uint64_t stream, int32_t count) {
    for (int32_t i = 0; i < count; ++i) {
      tokens->push_back(static_cast<int32_t>(Mix64(stream + i) % StandInModel::kVocab));
    }
  };
  for (const PrefixPart& part : turn.prefix) append(Mix64(~uint64_t{0}, part.name), part.tokens);
  for (int32_t token : turn.tokens) tokens->push_back(token % StandInModel::kVocab);
  append(Mix64(script.script.id, index), turn.own_tokens);
}

void Simulation::AppendHistory(const LiveScript& script, int32_t turn,
                               std::vector<int32_t>* tokens) const {
  std::vector<int32_t> path;
  for (; turn >= 0; turn = script.script.turns[turn].after) path.push_back(turn);
  for (; !path.empty(); path.pop_back()) {
    AppendPrompt(script, path.back(), tokens);
    tokens->resize(tokens->size() + script.script.turns[path.back()].output, StandInModel::kAnswer);
  }
}

void Simulation::OnToken(uint32_t index) {
  Live& live = lives_[index];
  if (live.first_token < 0) live.first_token = now();
  // After a failure the same tokens come again, bit for bit: the client goes on after its last.
  if (++live.drawn <= live.delivered) return;
  ++live.delivered;
  const SimTime before = std::exchange(live.last_token, now());
  if (!live.measured) return;
  const bool first = live.delivered == 1;
  const SimTime time = now() - (first ? live.arrival : before);
  LatencyStats& tenant = TenantStats(scripts_[live.script].script.turns[live.turn].tenant);
  (first ? report_.all.ttft : report_.all.itl).Add(time);
  (first ? tenant.ttft : tenant.itl).Add(time);
  Replica& replica = replicas_[live.replica];
  (first ? replica.ttft_sum : replica.itl_sum) += static_cast<double>(time) * 1e-9;
  ++(first ? replica.ttfts : replica.itls);
}

void Simulation::OnFinish(uint32_t index, const scheduler::RequestResult& result) {
  Live& live = lives_[index];
  const Turn& turn = scripts_[live.script].script.turns[live.turn];
  TenantStats(turn.tenant).computed_rows += static_cast<double>(result.computed_tokens);
  if (ending_) return;
  report_.cached_tokens += result.reuse.cached_tokens;
  report_.cache_hits += result.reuse.cached_tokens > 0;
  report_.fed_tokens += result.reuse.cached_tokens + result.computed_tokens;
  if (result.state.has_value()) {
    ++report_.exports;
    clock_.Advance(FromSeconds(ExportSeconds(options_.device)));
  }
  const bool drained = result.status.ok() && result.reason == scheduler::FinishReason::kDrained;
  if (result.status.ok() && !drained) {
    if (live.drawn != turn.output) {
      broken_.Update(absl::InternalError(
          absl::StrCat("a turn ended after ", live.drawn, " of ", turn.output, " tokens")));
    }
    if (live.measured) {
      const SimTime queue = absl::ToInt64Nanoseconds(result.timeline.queue);
      report_.all.queue.Add(queue);
      TenantStats(turn.tenant).queue.Add(queue);
    }
    Complete(index);
    return;
  }
  const bool lost = absl::IsCancelled(result.status);
  if (!drained && !lost && !absl::IsUnavailable(result.status)) {
    Leave(live);
    Fail(index, result.status);
    return;
  }
  SimTime delay = lost ? FromSeconds(options_.failure_detection) : 0;
  if (drained && result.state.has_value()) {
    live.saved_tokens = result.state->token_count();
    live.saved_drawn = live.drawn;
    delay = FromSeconds(StoreSeconds(options_.device));
  }
  Leave(live);
  Again(index, delay);
}

void Simulation::Served(uint32_t index) {
  Live& live = lives_[index];
  live.delivered = live.drawn = scripts_[live.script].script.turns[live.turn].output;
  Complete(index);
}

void Simulation::Leave(Live& live) {
  if (live.replica < 0) return;
  --loads_[live.replica];
  if (ring_.Has(live.replica)) --total_load_;
  live.replica = -1;
  live.source = nullptr;
}

void Simulation::Refused(uint32_t index, SimTime delay) {
  Live& live = lives_[index];
  if (live.replica >= 0) --replicas_[live.replica].turns;
  Leave(live);
  ++report_.rejections;
  report_.retry_delay.Add(delay);
  if (++live.attempts >= options_.max_attempts) {
    Drop(index, &report_.dropped);
  } else {
    Push(now() + delay, EventKind::kSubmit, index, ++live.epoch);
  }
}

void Simulation::Again(uint32_t index, SimTime delay) {
  ++report_.resubmitted;
  Push(now() + delay, EventKind::kSubmit, index, ++lives_[index].epoch);
}

void Simulation::Fail(uint32_t index, const absl::Status& status) {
  if (absl::IsDeadlineExceeded(status)) {
    Drop(index, &report_.expired);
    return;
  }
  if (report_.first_failure.empty()) report_.first_failure = std::string(status.message());
  Drop(index, &report_.failed);
}

void Simulation::Drop(uint32_t index, int64_t* counter) {
  Live& live = lives_[index];
  const uint32_t place = live.script;
  LiveScript& script = scripts_[place];
  ++*counter;
  std::vector<int32_t> below = {script.first_child[live.turn]};
  while (!below.empty()) {
    const int32_t turn = below.back();
    below.pop_back();
    if (turn < 0) continue;
    ++report_.abandoned;
    --script.open;
    below.push_back(script.next_child[turn]);
    below.push_back(script.first_child[turn]);
  }
  live.used = false;
  free_lives_.push_back(index);
  EndTurn(place);
}

void Simulation::Complete(uint32_t index) {
  Live& live = lives_[index];
  LiveScript& script = scripts_[live.script];
  const Turn& turn = script.script.turns[live.turn];
  const int replica = live.replica;
  Measure(live, turn);
  ++report_.completed;
  last_end_ = std::max(last_end_, now());
  script.end_tokens[live.turn] = HistoryTokens(script, turn) + turn.prompt_tokens() + turn.output;
  if (turn.session >= 0) {
    SessionPlace& place = script.sessions[turn.session];
    HostTier& tier = replicas_[replica].tier;
    if (place.replica == replica) tier.Drop(place.entry);
    // A replica that drains is no home: nobody will look there.
    place = {replica, ring_.Has(replica) ? tier.Put() : 0,
             now() + FromSeconds(StoreSeconds(options_.device))};
  }
  for (int32_t child = script.first_child[live.turn]; child >= 0;
       child = script.next_child[child]) {
    const Turn& next = script.script.turns[child];
    const SimTime at = std::max(now() + FromSeconds(next.delay), FromSeconds(next.not_before));
    Push(at, EventKind::kTurn, live.script, child);
  }
  Leave(live);
  live.used = false;
  free_lives_.push_back(index);
  EndTurn(live.script);
}

void Simulation::Measure(const Live& live, const Turn& turn) {
  const Replica& replica = replicas_[live.replica];
  if (!live.measured && !replica.real) return;
  const Alone alone = AloneSeconds(scripts_[live.script], turn);
  if (replica.real && live.saved_tokens == 0 && live.first_token >= 0 && options_.sampled > 0) {
    const double prefill = static_cast<double>(live.first_token - live.ready) * 1e-9;
    const double decode = static_cast<double>(now() - live.first_token) * 1e-9;
    surrogate_.Learn(live.under_way, prefill / alone.prefill,
                     alone.decode > 0 ? decode / alone.decode : 1);
  }
  if (!live.measured) return;
  const SimTime latency = now() - live.arrival;
  for (LatencyStats* stats : {&report_.all, &TenantStats(turn.tenant)}) {
    ++stats->completed;
    stats->prompt_tokens += turn.prompt_tokens();
    stats->output_tokens += turn.output;
    // Without a scheduler the latency is a guess: it moves what comes later, and is not reported.
    if (!replica.real) continue;
    stats->latency.Add(latency);
    stats->slowdown_sum += static_cast<double>(latency) * 1e-9 / (alone.prefill + alone.decode);
    ++stats->slowdowns;
  }
}

void Simulation::EndTurn(uint32_t place) {
  if (--scripts_[place].open > 0) return;
  scripts_[place] = LiveScript();
  free_scripts_.push_back(place);
}

}  // namespace reprise::simulate
