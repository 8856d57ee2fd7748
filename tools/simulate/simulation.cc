#include "tools/simulate/simulation.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "tools/simulate/random.h"
#include "tools/simulate/simulation_state.h"

namespace reprise::simulate {
namespace {

absl::Status Expect(bool ok, const char* option, const char* range) {
  if (ok) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(option, ": expected ", range));
}

// Of the stand-in's states where prompts are kept: a prompt of a thousand tokens takes a sixteenth.
constexpr int64_t kCachedStateBytes = 1 << 16;

int64_t TierEntries(const DeviceModel& device) {
  if (device.state_bytes <= 0) return int64_t{1} << 40;
  return static_cast<int64_t>(std::min(device.host_tier_bytes / device.state_bytes, 1e12));
}

// Standard error of the mean of `means`.
double StandardError(const std::vector<double>& means) {
  if (means.size() < 2) return 0;
  double mean = 0, squares = 0;
  for (double value : means) mean += value / static_cast<double>(means.size());
  for (double value : means) squares += (value - mean) * (value - mean);
  const double n = static_cast<double>(means.size());
  return std::sqrt(squares / (n - 1) / n);
}

}  // namespace

absl::StatusOr<MembershipEvent> ParseMembershipEvent(const std::string& text) {
  const std::vector<std::string> parts = absl::StrSplit(text, ':');
  MembershipEvent event;
  const bool drain = parts.size() == 4 && parts[1] == "drain";
  const bool other = parts.size() == 3 && (parts[1] == "fail" || parts[1] == "join");
  const bool numbers = (drain || other) && absl::SimpleAtod(parts[0], &event.at) &&
                       absl::SimpleAtoi(parts[2], &event.replica) &&
                       (!drain || absl::SimpleAtod(parts[3], &event.grace));
  if (!numbers || !(event.at >= 0 && event.at <= kMaxSeconds) ||
      !(event.grace >= 0 && event.grace <= kMaxSeconds)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "event \"", text,
        "\": expected seconds:fail:replica, seconds:join:replica or seconds:drain:replica:grace"));
  }
  event.kind = drain                ? MembershipEvent::Kind::kDrain
               : parts[1] == "fail" ? MembershipEvent::Kind::kFail
                                    : MembershipEvent::Kind::kJoin;
  return event;
}

Simulation::Simulation(ScriptSource* source, const SimulationOptions& options)
    : source_(source),
      options_(options),
      ring_(std::clamp(options.replicas, 1, 100'000), std::clamp(options.virtual_nodes, 1, 4096),
            options.seed) {}

Simulation::~Simulation() {
  ending_ = true;  // the observers hear of the end
  for (Replica& replica : replicas_) replica.scheduler.reset();
}

absl::Status Simulation::CheckOptions() const {
  const SimulationOptions& o = options_;
  RETURN_IF_ERROR(Expect(o.replicas >= 1 && o.replicas <= 100'000, "replicas", "1 to 100000"));
  RETURN_IF_ERROR(
      Expect(o.sampled >= 0 && o.sampled <= o.replicas, "sampled", "0 to the replicas"));
  RETURN_IF_ERROR(
      Expect(o.virtual_nodes >= 1 && o.virtual_nodes <= 4096, "virtual_nodes", "1 to 4096"));
  RETURN_IF_ERROR(Expect(o.load_bound == 0 || (o.load_bound >= 1 && o.load_bound <= 1000),
                         "load_bound", "0, or 1 to 1000"));
  RETURN_IF_ERROR(Expect(o.failure_detection >= 0 && o.failure_detection <= kMaxSeconds,
                         "failure_detection", "seconds"));
  RETURN_IF_ERROR(
      Expect(o.retry_delay > 0 && o.retry_delay <= kMaxSeconds, "retry_delay", "seconds above 0"));
  RETURN_IF_ERROR(Expect(o.max_attempts >= 1, "max_attempts", "at least 1"));
  RETURN_IF_ERROR(Expect(o.warmup >= 0 && o.warmup <= kMaxSeconds, "warmup", "seconds"));
  RETURN_IF_ERROR(Expect(o.deadline > 0, "deadline", "seconds above 0"));
  RETURN_IF_ERROR(Expect(o.parked_bytes >= 0, "parked_bytes", "at least 0"));
  RETURN_IF_ERROR(Expect(o.prefix_bytes == 0 || o.prefix_bytes >= o.device.state_bytes,
                         "prefix_bytes", "0, or at least one state"));
  RETURN_IF_ERROR(Expect(o.until > 0, "until", "seconds above 0"));
  std::vector<bool> present(o.replicas, true);
  double at = 0;
  for (const MembershipEvent& event : o.events) {
    RETURN_IF_ERROR(Expect(event.replica >= 0 && event.replica < o.replicas, "event",
                           "a replica from 0 to one less than their number"));
    RETURN_IF_ERROR(Expect(event.at >= at, "event", "times in order"));
    at = event.at;
    const bool joins = event.kind == MembershipEvent::Kind::kJoin;
    RETURN_IF_ERROR(Expect(present[event.replica] != joins, "event",
                           "a replica to fail or drain that is there, and to join that is not"));
    present[event.replica] = joins;
  }
  for (const auto& [tenant, weight] : o.tenant_weights) {
    RETURN_IF_ERROR(Expect(weight > 0 && weight <= 1000, "tenant weight", "above 0, to 1000"));
  }
  return absl::OkStatus();
}

absl::Status Simulation::Init() {
  RETURN_IF_ERROR(CheckOptions());
  ASSIGN_OR_RETURN(pool_, kernels::ThreadPool::Create(1));
  const int count = options_.replicas;
  const int with_scheduler = options_.sampled == 0 ? count : options_.sampled;
  replicas_.reserve(count);
  loads_.resize(count);
  for (int i = 0; i < count; ++i) replicas_.emplace_back(TierEntries(options_.device));
  // Evenly by number, which says nothing about the place on the ring.
  for (int i = 0; i < with_scheduler; ++i) {
    Replica& replica = replicas_[static_cast<int64_t>(i) * count / with_scheduler];
    replica.real = true;
    RETURN_IF_ERROR(StartScheduler(replica));
  }
  report_.replicas = count;
  report_.with_scheduler = with_scheduler;
  report_.num_slots = options_.scheduler.num_slots;
  for (size_t i = 0; i < options_.events.size(); ++i) {
    Push(FromSeconds(options_.events[i].at), EventKind::kMember, i);
  }
  PullScript();
  return absl::OkStatus();
}

class Simulation::Copies final : public scheduler::SchedulerMetrics {
 public:
  explicit Copies(Simulation* simulation) : simulation_(simulation) {}
  void OnStep(const Step& step) override {
    simulation_->report_.parks += step.parks;
    simulation_->report_.exports += step.parks;
    simulation_->clock_.Advance(step.parks *
                                FromSeconds(ExportSeconds(simulation_->options_.device)));
  }

 private:
  Simulation* const simulation_;
};

Simulation::Replica::Replica(int64_t tier_entries) : tier(tier_entries) {}
Simulation::Replica::Replica(Replica&&) noexcept = default;
Simulation::Replica::~Replica() = default;

absl::Status Simulation::StartScheduler(Replica& replica) {
  const bool cache = options_.prefix_bytes > 0;
  const int64_t state_bytes = cache ? kCachedStateBytes : StandInModel::kLeastBytes;
  replica.model = std::make_unique<StandInModel>(&options_.device, &clock_, state_bytes);
  replica.copies = std::make_unique<Copies>(this);
  scheduler::SchedulerOptions options = options_.scheduler;
  options.metrics = replica.copies.get();
  if (cache) {
    scheduler::PrefixCacheOptions prefix;
    prefix.max_bytes =
        static_cast<int64_t>(
            std::min(options_.prefix_bytes / std::max(options_.device.state_bytes, 1.0), 1e7)) *
        state_bytes;
    ASSIGN_OR_RETURN(options.prefix_cache, scheduler::PrefixCache::Create(&clock_, prefix));
  }
  replica.kept = 0;
  // The stand-in's states are small; as many of them have room as of the device's.
  const double states =
      options_.device.state_bytes > 0 ? options_.parked_bytes / options_.device.state_bytes : 1e9;
  options.max_parked_bytes = static_cast<int64_t>(std::min(states, 1e9)) *
                             static_cast<int64_t>(replica.model->state_layout().bytes());
  if (!options_.tenant_weights.empty()) {
    options.tenant_weight = [this](const std::string& tenant) {
      const auto weight = options_.tenant_weights.find(tenant);
      return weight == options_.tenant_weights.end() ? 1.0 : weight->second;
    };
  }
  kernels::Context context;
  context.pool = pool_.get();
  ASSIGN_OR_RETURN(replica.scheduler,
                   scheduler::Scheduler::Create(replica.model.get(), context, &clock_, options));
  return absl::OkStatus();
}

void Simulation::StopScheduler(Replica& replica) {
  if (replica.scheduler == nullptr) return;
  replica.scheduler.reset();  // ends what runs with CANCELLED
  report_.steps += replica.model->forwards();
  report_.rows += replica.model->rows();
  report_.imports += replica.model->imports();
  replica.model.reset();
}

void Simulation::PullScript() {
  if (source_->Next(&next_script_)) Push(FromSeconds(next_script_.start), EventKind::kScript, 0);
}

absl::Status Simulation::Run() {
  const SimTime until = options_.until < kMaxSeconds ? FromSeconds(options_.until)
                                                     : std::numeric_limits<SimTime>::max();
  while (!events_.empty() && events_.top().time <= until && broken_.ok()) {
    const Event event = events_.top();
    events_.pop();
    clock_.Set(event.time);
    Handle(event);
  }
  RETURN_IF_ERROR(broken_);
  if (!events_.empty()) {
    clock_.Set(until);
    return absl::OkStatus();
  }
  return CheckEnd();
}

void Simulation::Handle(const Event& event) {
  switch (event.kind) {
    case EventKind::kScript:
      BeginScript();
      break;
    case EventKind::kTurn:
      Arrive(event.a, static_cast<int32_t>(event.b));
      break;
    case EventKind::kSubmit:
      if (lives_[event.a].epoch == event.b) Submit(event.a);
      break;
    case EventKind::kStep:
      Step(event.a);
      break;
    case EventKind::kState: {
      Live& live = lives_[event.a];
      if (live.epoch != event.b || live.source == nullptr) break;
      const std::shared_ptr<scheduler::StateFuture> source = std::move(live.source);
      live.source = nullptr;
      source->Set(replicas_[live.replica].model->StateAfter(
          live.saved_tokens > 0
              ? live.saved_tokens
              : StateTokens(scripts_[live.script], scripts_[live.script].script.turns[live.turn])));
      Wake(live.replica);
      break;
    }
    case EventKind::kServed:
      if (lives_[event.a].epoch == event.b) Served(event.a);
      break;
    case EventKind::kMember:
      Change(options_.events[event.a]);
      break;
  }
}

void Simulation::BeginScript() {
  uint32_t place;
  if (free_scripts_.empty()) {
    place = scripts_.size();
    scripts_.emplace_back();
  } else {
    place = free_scripts_.back();
    free_scripts_.pop_back();
  }
  LiveScript& live = scripts_[place];
  live.script = std::move(next_script_);
  next_script_ = {};
  const size_t turns = live.script.turns.size();
  live.sessions.assign(live.script.num_sessions, {});
  live.end_tokens.assign(turns, -1);
  live.first_child.assign(turns, -1);
  live.next_child.assign(turns, -1);
  live.open = static_cast<int32_t>(turns);
  report_.turns += live.open;
  for (size_t turn = turns; turn-- > 0;) {
    const int32_t after = live.script.turns[turn].after;
    if (after < 0) {
      Push(now() + FromSeconds(live.script.turns[turn].delay), EventKind::kTurn, place, turn);
    } else {
      live.next_child[turn] = live.first_child[after];
      live.first_child[after] = static_cast<int32_t>(turn);
    }
  }
  PullScript();
}

void Simulation::Wake(uint32_t index) {
  Replica& replica = replicas_[index];
  if (replica.step_due || replica.scheduler == nullptr) return;
  replica.step_due = true;
  replica.step_at = now();
  Push(now(), EventKind::kStep, index);
}

void Simulation::Step(uint32_t index) {
  Replica& replica = replicas_[index];
  // A drain's deadline comes in the middle of a step.
  if (replica.step_due && replica.step_at != now()) return;
  replica.step_due = false;
  if (replica.scheduler == nullptr) return;
  const SimTime begin = now();
  if (!replica.scheduler->Step()) return;
  const scheduler::SchedulerStats stats = replica.scheduler->stats();
  const int64_t kept = stats.kept_prefixes - std::exchange(replica.kept, stats.kept_prefixes);
  report_.exports += kept;
  clock_.Advance(kept * FromSeconds(ExportSeconds(options_.device)));
  const double seconds = static_cast<double>(now() - begin) * 1e-9;
  report_.busy_seconds += seconds;
  report_.slot_seconds += seconds * stats.running;
  Wake(index);
}

void Simulation::Change(const MembershipEvent& event) {
  Replica& replica = replicas_[event.replica];
  if (event.kind == MembershipEvent::Kind::kJoin) {
    // What a drain has left running is lost when the replica comes back as a new process.
    StopScheduler(replica);
    MoveServed(event.replica, now());
    replica.tier.Clear();
    if (replica.real) broken_.Update(StartScheduler(replica));
    total_load_ += loads_[event.replica];
    ring_.Add(event.replica);
    return;
  }
  ring_.Remove(event.replica);
  total_load_ -= loads_[event.replica];
  replica.tier.Clear();
  if (event.kind == MembershipEvent::Kind::kFail) {
    StopScheduler(replica);
    MoveServed(event.replica, now());
  } else if (replica.scheduler != nullptr) {
    const SimTime deadline = now() + FromSeconds(event.grace);
    replica.scheduler->Drain(SimClock::At(deadline));
    Wake(event.replica);
    Push(deadline, EventKind::kStep, event.replica);
  } else {
    MoveServed(event.replica, now() + FromSeconds(event.grace));
  }
}

// Turns at a replica without a scheduler that would not end by `after` go elsewhere then.
void Simulation::MoveServed(uint32_t replica, SimTime after) {
  if (replicas_[replica].real) return;
  for (uint32_t i = 0; i < lives_.size(); ++i) {
    Live& live = lives_[i];
    if (!live.used || live.replica != static_cast<int32_t>(replica) || live.end <= after) {
      continue;
    }
    Leave(live);
    const SimTime failure = after == now() ? FromSeconds(options_.failure_detection) : 0;
    Again(i, after - now() + failure);
  }
}

absl::Status Simulation::CheckEnd() const {
  for (size_t i = 0; i < replicas_.size(); ++i) {
    if (replicas_[i].scheduler == nullptr) continue;
    if (!replicas_[i].scheduler->Idle()) {
      return absl::InternalError(
          absl::StrCat("replica ", i, ": the scheduler has requests and nothing to do"));
    }
    RETURN_IF_ERROR(replicas_[i].scheduler->CheckIntegrity());
  }
  return absl::OkStatus();
}

absl::StatusOr<Report> Simulation::Finish() {
  const SimTime end = now();
  ending_ = true;
  for (Replica& replica : replicas_) StopScheduler(replica);
  RETURN_IF_ERROR(broken_);
  clock_.Set(end);
  for (const Live& live : lives_) report_.unfinished += live.used;
  for (const LiveScript& script : scripts_) report_.unsent += script.open;
  report_.unsent -= report_.unfinished;

  const double warmup = options_.warmup;
  const SimTime last = options_.until < kMaxSeconds ? end : last_end_;
  report_.duration = std::max(static_cast<double>(last) * 1e-9 - warmup, 0.0);
  report_.replica_seconds = static_cast<double>(last) * 1e-9 * report_.with_scheduler;
  const size_t tenants = source_->tenants().names().size();
  report_.tenants.resize(tenants);
  // By name: the order of first use is the source's affair.
  std::map<std::string, LatencyStats> by_name;
  for (size_t i = 0; i < tenants; ++i) {
    by_name[source_->tenants().names()[i]] = std::move(report_.tenants[i]);
  }
  report_.tenants.clear();
  for (auto& [name, stats] : by_name) {
    report_.tenants.push_back(std::move(stats));
    report_.tenant_names.push_back(name);
    const auto weight = options_.tenant_weights.find(name);
    report_.tenant_weights.push_back(weight == options_.tenant_weights.end() ? 1 : weight->second);
  }

  double sum = 0, squares = 0, sampled = 0;
  std::vector<double> ttfts, itls;
  for (const Replica& replica : replicas_) {
    const double turns = static_cast<double>(replica.turns);
    sum += turns;
    squares += turns * turns;
    report_.load_max = std::max(report_.load_max, turns);
    if (!replica.real) continue;
    sampled += turns;
    if (replica.ttfts > 0) ttfts.push_back(replica.ttft_sum / replica.ttfts);
    if (replica.itls > 0) itls.push_back(replica.itl_sum / replica.itls);
  }
  const double count = static_cast<double>(replicas_.size());
  report_.load_mean = sum / count;
  if (sum > 0) {
    report_.load_variation =
        std::sqrt(std::max(squares / count - report_.load_mean * report_.load_mean, 0.0)) /
        report_.load_mean;
    report_.sampled_load_ratio = sampled / report_.with_scheduler / report_.load_mean;
  }
  report_.ttft_mean_error = StandardError(ttfts);
  report_.itl_mean_error = StandardError(itls);
  if (const std::string wrong = report_.Conservation(); !wrong.empty()) {
    return absl::InternalError(wrong);
  }
  return std::move(report_);
}

absl::StatusOr<Report> Simulate(ScriptSource& source, const SimulationOptions& options) {
  Simulation simulation(&source, options);
  RETURN_IF_ERROR(simulation.Init());
  RETURN_IF_ERROR(simulation.Run());
  return simulation.Finish();
}

}  // namespace reprise::simulate
