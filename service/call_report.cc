#include "service/call_report.h"

#include <nlohmann/json.hpp>

#include "service/log_fields.h"
#include "service/metrics/metrics.h"

namespace reprise::service {
namespace {

using Json = nlohmann::ordered_json;

std::string TimeText(absl::Time time) {
  return absl::FormatTime(absl::RFC3339_full, time, absl::UTCTimeZone());
}

// What happened when, in seconds after the call came.
Json EventsOf(const CallReport& report, absl::Duration whole) {
  Json events = Json::array();
  const auto add = [&](const char* name, absl::Duration at) {
    events.push_back({{"name", name}, {"seconds", absl::ToDoubleSeconds(at)}});
  };
  if (report.submitted == absl::InfiniteFuture()) return events;
  const absl::Duration queued = report.submitted - report.started;
  add("queued", queued);
  if (!report.timeline.has_value()) return events;
  const scheduler::Timeline& times = *report.timeline;
  if (times.load > absl::ZeroDuration()) add("loaded", queued + times.load);
  const bool generated = report.generated_tokens > 0;
  if (generated || report.computed_tokens > 0) {
    const absl::Duration admitted = queued + times.queue;
    add("admitted", admitted);
    if (generated) {
      // Prefill counts from the end of the first restore.
      const absl::Duration first_token = queued + times.time_to_first_token;
      if (times.restore > absl::ZeroDuration()) add("restored", first_token - times.prefill);
      add("first_token", first_token);
      add("decoded", first_token + times.decode);
    }
  }
  if (report.commit > absl::ZeroDuration()) add("committed", whole);
  return events;
}

void LogFailure(const Environment& environment, const CallReport& report, absl::Duration after,
                const absl::Status& status, const std::string& session,
                const std::string& request_id) {
  if (status.ok() || absl::IsCancelled(status)) return;
  // Whoever has not proven who it is must not be able to fill the log; Admit has said it for those
  // who look closer.
  if (report.tenant.empty()) return;
  const auto level = absl::IsInternal(status) || absl::IsDataLoss(status) ? spdlog::level::err
                                                                          : spdlog::level::info;
  environment.log->log(level, "{}",
                       WithFields("Generate refused or failed: " + ForLog(status),
                                  {{"request_id", request_id},
                                   {"session", session},
                                   {"trace_id", report.trace.trace_id},
                                   {"after", absl::FormatDuration(after)}}));
}

}  // namespace

void CallReport::NoteResult(const scheduler::RequestResult& result) {
  timeline = result.timeline;
  computed_tokens += result.computed_tokens;
  cached_tokens += result.reuse.cached_tokens;
  generated_tokens += static_cast<int64_t>(result.generated.size());
}

std::string SpanLine(const CallReport& report, absl::Time ended, const absl::Status& status,
                     const std::string& session, const std::string& request_id) {
  Json span = {{"time", TimeText(ended)},
               {"level", "info"},
               {"message", "span"},
               {"name", "reprise.v1.GenerationService/Generate"},
               {"trace_id", report.trace.trace_id},
               {"span_id", report.trace.span_id}};
  if (!report.trace.parent_span.empty()) span["parent_span_id"] = report.trace.parent_span;
  span["start"] = TimeText(report.started);
  span["seconds"] = absl::ToDoubleSeconds(ended - report.started);
  span["status"] = absl::StatusCodeToString(status.code());
  if (report.model != nullptr) span["model"] = report.model->name;
  span["tenant"] = ForLog(report.tenant);
  if (!session.empty()) span["session"] = ForLog(session);
  if (!request_id.empty()) span["request_id"] = ForLog(request_id);
  span["tokens"] = {{"prompt", report.prompt_tokens},
                    {"restored", report.restored_tokens},
                    {"cached", report.cached_tokens},
                    {"computed", report.computed_tokens},
                    {"generated", report.generated_tokens}};
  if (report.timeline.has_value()) {
    const scheduler::Timeline& times = *report.timeline;
    span["phases"] = {{"queue", absl::ToDoubleSeconds(times.queue)},
                      {"load", absl::ToDoubleSeconds(times.load)},
                      {"restore", absl::ToDoubleSeconds(times.restore)},
                      {"prefill", absl::ToDoubleSeconds(times.prefill)},
                      {"decode", absl::ToDoubleSeconds(times.decode)},
                      {"parked", absl::ToDoubleSeconds(times.parked)},
                      {"snapshot", absl::ToDoubleSeconds(times.snapshot)},
                      {"commit", absl::ToDoubleSeconds(report.commit)}};
  }
  span["events"] = EventsOf(report, ended - report.started);
  return span.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void Report(const Environment& environment, const CallReport& report, const absl::Status& status,
            const std::string& session, const std::string& request_id) {
  const absl::Time now = environment.clock->Now();
  LogFailure(environment, report, now - report.started, status, session, request_id);
  if (report.model != nullptr && report.timeline.has_value()) {
    ModelMetrics* model = environment.metrics->AddModel(report.model->name);
    const bool ran = report.computed_tokens > 0 || report.generated_tokens > 0;
    model->OnPrepared(report.submitted - report.started);
    model->OnCallEnd(now - report.started, ran ? report.restored_tokens : 0);
    if (report.commit > absl::ZeroDuration()) model->OnCommit(report.commit);
    environment.metrics->CountTenant(report.tenant, status.ok(), report.prompt_tokens,
                                     report.generated_tokens);
  }
  if (environment.spans != nullptr && (environment.all_spans || report.trace.sampled)) {
    environment.spans->info("{}", SpanLine(report, now, status, session, request_id));
  }
}

}  // namespace reprise::service
