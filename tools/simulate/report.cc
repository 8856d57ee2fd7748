#include "tools/simulate/report.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace reprise::simulate {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kPercents[] = {50, 90, 95, 99};

double Ratio(double a, double b) { return b == 0 ? 0 : a / b; }
double Ratio(int64_t a, int64_t b) { return Ratio(static_cast<double>(a), static_cast<double>(b)); }

Json Milliseconds(const Distribution& times) {
  Json json;
  json["count"] = times.count();
  json["mean"] = times.mean() * 1e3;
  for (double percent : kPercents) {
    json[absl::StrCat("p", percent)] = times.Percentile(percent) * 1e3;
  }
  json["max"] = times.max() * 1e3;
  return json;
}

Json Latencies(const LatencyStats& stats) {
  Json json;
  json["completed"] = stats.completed;
  json["prompt_tokens"] = stats.prompt_tokens;
  json["output_tokens"] = stats.output_tokens;
  json["mean_slowdown"] = stats.mean_slowdown();
  json["ttft_ms"] = Milliseconds(stats.ttft);
  json["itl_ms"] = Milliseconds(stats.itl);
  json["queue_ms"] = Milliseconds(stats.queue);
  json["latency_ms"] = Milliseconds(stats.latency);
  return json;
}

std::string TimeRow(const std::string& name, const Distribution& times) {
  std::string row = absl::StrFormat("%-24s %9d", name, times.count());
  absl::StrAppendFormat(&row, " %10.2f", times.mean() * 1e3);
  for (double percent : kPercents) {
    absl::StrAppendFormat(&row, " %10.2f", times.Percentile(percent) * 1e3);
  }
  absl::StrAppendFormat(&row, " %10.2f\n", times.max() * 1e3);
  return row;
}

std::string TimeHeader(const char* what) {
  return absl::StrFormat("%-24s %9s %10s %10s %10s %10s %10s %10s\n", what, "count", "mean", "p50",
                         "p90", "p95", "p99", "max");
}

}  // namespace

std::string Report::Conservation() const {
  const int64_t ends = completed + expired + dropped + failed + abandoned + unfinished + unsent;
  if (ends == turns) return "";
  return absl::StrCat(turns, " turns, and ", completed, " completed + ", expired, " expired + ",
                      dropped, " dropped + ", failed, " failed + ", abandoned, " abandoned + ",
                      unfinished, " unfinished + ", unsent, " unsent");
}

double Report::jain_service() const {
  std::vector<double> shares;
  for (size_t i = 0; i < tenants.size(); ++i) {
    if (tenants[i].computed_rows > 0) {
      shares.push_back(tenants[i].computed_rows / tenant_weights[i]);
    }
  }
  return JainIndex(shares);
}

double Report::jain_slowdown() const {
  std::vector<double> speeds;
  for (const LatencyStats& tenant : tenants) {
    if (tenant.slowdowns > 0) speeds.push_back(Ratio(1.0, tenant.mean_slowdown()));
  }
  return JainIndex(speeds);
}

std::string ReportJson(const Report& r) {
  Json json;
  json["title"] = r.title;
  json["turns"] = {{"all", r.turns},
                   {"completed", r.completed},
                   {"expired", r.expired},
                   {"dropped", r.dropped},
                   {"failed", r.failed},
                   {"abandoned", r.abandoned},
                   {"unfinished", r.unfinished},
                   {"unsent", r.unsent}};
  if (!r.first_failure.empty()) json["first_failure"] = r.first_failure;
  json["duration_s"] = r.duration;
  json["throughput"] = {
      {"turns_per_s", Ratio(static_cast<double>(r.all.completed), r.duration)},
      {"prompt_tokens_per_s", Ratio(static_cast<double>(r.all.prompt_tokens), r.duration)},
      {"output_tokens_per_s", Ratio(static_cast<double>(r.all.output_tokens), r.duration)}};
  json["all"] = Latencies(r.all);
  json["fairness"] = {{"jain_service", r.jain_service()}, {"jain_slowdown", r.jain_slowdown()}};
  json["device"] = {{"steps", r.steps},
                    {"rows_per_step", Ratio(r.rows, r.steps)},
                    {"busy", Ratio(r.busy_seconds, r.replica_seconds)},
                    {"slot_use", Ratio(r.slot_seconds, r.replica_seconds * r.num_slots)},
                    {"imports", r.imports},
                    {"exports", r.exports},
                    {"preemptions", r.parks}};
  json["states"] = {{"local", r.states_local},
                    {"store", r.states_from_store},
                    {"local_hit_rate", Ratio(r.states_local, r.states_local + r.states_from_store)},
                    {"sessions_moved", r.sessions_moved}};
  json["prefix_cache"] = {{"hits", r.cache_hits},
                          {"cached_tokens", r.cached_tokens},
                          {"share_of_rows", Ratio(r.cached_tokens, r.fed_tokens)}};
  json["refused"] = {{"rejections", r.rejections}, {"retry_delay_ms", Milliseconds(r.retry_delay)}};
  json["fleet"] = {{"replicas", r.replicas},
                   {"with_scheduler", r.with_scheduler},
                   {"resubmitted", r.resubmitted},
                   {"turns_per_replica",
                    {{"mean", r.load_mean}, {"max", r.load_max}, {"variation", r.load_variation}}},
                   {"sampled_load_ratio", r.sampled_load_ratio},
                   {"ttft_mean_error_ms", r.ttft_mean_error * 1e3},
                   {"itl_mean_error_ms", r.itl_mean_error * 1e3}};
  json["tenants"] = Json::array();
  for (size_t i = 0; i < r.tenants.size(); ++i) {
    Json tenant;
    tenant["name"] = r.tenant_names[i];
    tenant["weight"] = r.tenant_weights[i];
    tenant["computed_rows"] = r.tenants[i].computed_rows;
    tenant.update(Latencies(r.tenants[i]));
    json["tenants"].push_back(std::move(tenant));
  }
  return json.dump(2, ' ', true, Json::error_handler_t::replace);
}

std::string ReportTable(const Report& r) {
  std::string out = absl::StrCat(r.title, "\n\n");
  absl::StrAppendFormat(
      &out,
      "turns           %d: %d completed, %d expired, %d dropped, %d failed, %d abandoned, "
      "%d unfinished, %d unsent\n",
      r.turns, r.completed, r.expired, r.dropped, r.failed, r.abandoned, r.unfinished, r.unsent);
  if (!r.first_failure.empty()) absl::StrAppend(&out, "first failure   ", r.first_failure, "\n");
  absl::StrAppendFormat(&out,
                        "throughput      %.1f turns/s, %.0f prompt and %.0f output tokens/s, over "
                        "%.1f s\n",
                        Ratio(static_cast<double>(r.all.completed), r.duration),
                        Ratio(static_cast<double>(r.all.prompt_tokens), r.duration),
                        Ratio(static_cast<double>(r.all.output_tokens), r.duration), r.duration);
  absl::StrAppendFormat(
      &out,
      "device          %d steps of %.1f rows, busy %.1f%%, slots used %.1f%%, "
      "%d imports, %d exports, %d preemptions\n",
      r.steps, Ratio(r.rows, r.steps), 100 * Ratio(r.busy_seconds, r.replica_seconds),
      100 * Ratio(r.slot_seconds, r.replica_seconds * r.num_slots), r.imports, r.exports, r.parks);
  absl::StrAppendFormat(&out,
                        "states          %d local, %d from the store (%.1f%% local), %d turns on "
                        "another replica than the one before\n",
                        r.states_local, r.states_from_store,
                        100 * Ratio(r.states_local, r.states_local + r.states_from_store),
                        r.sessions_moved);
  absl::StrAppendFormat(&out, "prefix cache    %d turns reused %d tokens, %.1f%% of the rows\n",
                        r.cache_hits, r.cached_tokens, 100 * Ratio(r.cached_tokens, r.fed_tokens));
  absl::StrAppendFormat(&out, "refused         %d submissions, retry after %.0f ms (p50)\n",
                        r.rejections, r.retry_delay.Percentile(50) * 1e3);
  absl::StrAppendFormat(&out,
                        "fairness        Jain index of service %.4f, of slowdown %.4f; mean "
                        "slowdown %.2f\n",
                        r.jain_service(), r.jain_slowdown(), r.all.mean_slowdown());
  if (r.replicas > 1) {
    absl::StrAppendFormat(&out,
                          "fleet           %d replicas, %d of them with the scheduler; turns of a "
                          "replica: mean %.1f, max %.0f, variation %.1f%%; %d turns resubmitted\n",
                          r.replicas, r.with_scheduler, r.load_mean, r.load_max,
                          100 * r.load_variation, r.resubmitted);
    if (r.with_scheduler < r.replicas) {
      absl::StrAppendFormat(&out,
                            "sampled         mean TTFT +- %.2f ms, mean ITL +- %.3f ms (standard "
                            "errors over replicas); load of the sampled ones %.3f of the mean\n",
                            r.ttft_mean_error * 1e3, r.itl_mean_error * 1e3, r.sampled_load_ratio);
    }
  }
  absl::StrAppend(&out, "\n", TimeHeader("ms"), TimeRow("time to first token", r.all.ttft),
                  TimeRow("between tokens", r.all.itl), TimeRow("queue", r.all.queue),
                  TimeRow("whole turn", r.all.latency));
  if (r.tenants.size() < 2) return out;
  constexpr size_t kMostTenants = 20;
  absl::StrAppend(&out, "\n", TimeHeader("TTFT by tenant, ms"));
  for (size_t i = 0; i < std::min(r.tenants.size(), kMostTenants); ++i) {
    absl::StrAppend(&out, TimeRow(r.tenant_names[i].substr(0, 24), r.tenants[i].ttft));
  }
  absl::StrAppend(&out, "\n", TimeHeader("ITL by tenant, ms"));
  for (size_t i = 0; i < std::min(r.tenants.size(), kMostTenants); ++i) {
    absl::StrAppend(&out, TimeRow(r.tenant_names[i].substr(0, 24), r.tenants[i].itl));
  }
  if (r.tenants.size() > kMostTenants) {
    absl::StrAppend(&out, "(", r.tenants.size() - kMostTenants, " more tenants with --json)\n");
  }
  return out;
}

}  // namespace reprise::simulate
