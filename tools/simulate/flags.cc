#include "tools/simulate/flags.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"

namespace reprise::simulate {

void SourceFlags::AddGenerator(CLI::App& app) {
  app.add_option("--kind", generator.kind, "chat, agent-tree, long-document or mixed")
      ->capture_default_str();
  app.add_option("--scripts", generator.scripts, "conversations, trees or readers")
      ->capture_default_str();
  app.add_option("--rate", generator.rate, "how many of them start per second")
      ->capture_default_str();
  app.add_option("--tenants", generator.tenants, "number of tenants")->capture_default_str();
  app.add_option("--tenant-skew", generator.tenant_skew, "exponent of Zipf's law over tenants")
      ->capture_default_str();
  app.add_option("--length-scale", generator.length_scale, "multiplies all lengths")
      ->capture_default_str();
  app.add_option("--think-scale", generator.think_scale, "multiplies all think times")
      ->capture_default_str();
  app.add_option("--seed", generator.seed, "of the generator")->capture_default_str();
}

void SourceFlags::AddAll(CLI::App& app) {
  app.add_option("--trace", trace, "file to replay; without it, traffic is generated");
  app.add_option("--format", format, "of --trace: json, or azure for the public CSV traces")
      ->capture_default_str();
  app.add_option("--max-records", max_records, "a longer trace is refused")->capture_default_str();
  AddGenerator(app);
}

absl::StatusOr<std::unique_ptr<ScriptSource>> SourceFlags::Open() const {
  if (trace.empty()) return NewGenerator(generator);
  std::ifstream file(trace, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat(trace, ": cannot be opened"));
  TraceLimits limits;
  limits.max_records = max_records;
  if (format == "json") return ReadJsonTrace(file, trace, limits);
  if (format == "azure") return ReadAzureTrace(file, trace, limits);
  return absl::InvalidArgumentError(
      absl::StrCat("format: expected json or azure, found \"", format, "\""));
}

std::string SourceFlags::Describe() const {
  if (!trace.empty()) return trace;
  return absl::StrCat(generator.scripts, " x ", generator.kind, ", ", generator.rate, "/s, seed ",
                      generator.seed);
}

void AddSchedulerFlags(CLI::App& app, scheduler::SchedulerOptions& options) {
  app.add_option("--slots", options.num_slots, "sequences that run at the same time")
      ->capture_default_str();
  app.add_option("--step-tokens", options.step_tokens, "rows of one step")->capture_default_str();
  app.add_option("--prefill-chunk-tokens", options.prefill_chunk_tokens,
                 "prompt rows of one sequence in one step while others wait")
      ->capture_default_str();
  app.add_option("--step-logit-rows", options.step_logit_rows, "rows of one step with logits")
      ->capture_default_str();
  const auto seconds = [&app](const char* name, absl::Duration* duration, const char* help) {
    app.add_option_function<double>(
           name, [duration](double value) { *duration = absl::Seconds(value); }, help)
        ->default_str(absl::StrCat(absl::ToDoubleSeconds(*duration)));
  };
  seconds("--max-wait", &options.max_wait, "seconds after which who waits for a slot is overdue");
  seconds("--time-slice", &options.time_slice, "seconds after which a slot is given to who waits");
  app.add_option("--max-queued", options.max_queued, "requests that wait")->capture_default_str();
  app.add_option("--max-queued-per-tenant", options.max_queued_per_tenant, "and of one tenant")
      ->capture_default_str();
}

void RunFlags::Add(CLI::App& app) {
  source.AddAll(app);
  app.add_option("--device", device, "a preset (see `simulate device`) or a JSON file")
      ->capture_default_str();
  AddSchedulerFlags(app, options.scheduler);
  app.add_option("--weight", weights, "a tenant's share, as name=weight; repeatable");
  app.add_flag("--resend-history", options.resend_history,
               "sessions keep no state: each turn sends the whole conversation");
  app.add_option("--replicas", options.replicas, "behind one consistent-hash front")
      ->capture_default_str();
  app.add_option("--sampled", options.sampled, "replicas that run the scheduler; 0 = all")
      ->capture_default_str();
  app.add_option("--virtual-nodes", options.virtual_nodes, "of a replica on the ring")
      ->capture_default_str();
  app.add_option("--load-bound", options.load_bound,
                 "a replica takes at most this times the mean load; 0 = no bound")
      ->capture_default_str();
  app.add_flag("--route-by-session", route_by_session,
               "forks go where their own names hash to, not where their root went");
  app.add_option("--event", events,
                 "seconds:fail:replica, seconds:join:replica or seconds:drain:replica:grace; "
                 "repeatable, in order");
  app.add_option("--failure-detection", options.failure_detection,
                 "seconds until the clients of a failed replica come back")
      ->capture_default_str();
  app.add_option("--parked-bytes", options.parked_bytes,
                 "host memory for states that gave up their slot; 0 = none does")
      ->capture_default_str();
  app.add_option("--prefix-bytes", options.prefix_bytes,
                 "host memory of a replica's prefix cache; 0 = none")
      ->capture_default_str();
  app.add_option("--deadline", options.deadline, "seconds after which a client gives up");
  app.add_option("--retry-delay", options.retry_delay,
                 "seconds until a refused turn comes back, where the refusal does not say")
      ->capture_default_str();
  app.add_option("--max-attempts", options.max_attempts, "then a refused turn is dropped")
      ->capture_default_str();
  app.add_option("--warmup", options.warmup, "seconds whose turns are not measured")
      ->capture_default_str();
  app.add_option("--until", options.until, "seconds after which the run is cut off");
}

absl::StatusOr<SimulationOptions> RunFlags::Resolve() const {
  SimulationOptions resolved = options;
  ASSIGN_OR_RETURN(resolved.device, LoadDevice(device));
  resolved.route_by_root = !route_by_session;
  resolved.seed = source.generator.seed;
  for (const std::string& event : events) {
    ASSIGN_OR_RETURN(MembershipEvent parsed, ParseMembershipEvent(event));
    resolved.events.push_back(parsed);
  }
  for (const std::string& weight : weights) {
    const size_t equals = weight.rfind('=');
    double value = 0;
    if (equals == std::string::npos || !absl::SimpleAtod(weight.substr(equals + 1), &value)) {
      return absl::InvalidArgumentError(
          absl::StrCat("weight \"", weight, "\": expected name=number"));
    }
    resolved.tenant_weights[weight.substr(0, equals)] = value;
  }
  return resolved;
}

absl::StatusOr<DeviceModel> LoadDevice(const std::string& device) {
  const std::vector<std::string> presets = DevicePresets();
  if (std::find(presets.begin(), presets.end(), device) != presets.end()) {
    return DevicePreset(device);
  }
  std::ifstream file(device, std::ios::binary);
  if (!file) return DevicePreset(device);  // says what there is
  std::string json;
  constexpr size_t kMostBytes = 1 << 20;
  for (std::istreambuf_iterator<char> next(file), end; next != end; ++next) {
    if (json.size() == kMostBytes) {
      return absl::InvalidArgumentError(absl::StrCat(device, ": more than ", kMostBytes, " bytes"));
    }
    json.push_back(*next);
  }
  return ParseDeviceModel(json, device);
}

}  // namespace reprise::simulate
