// What is told of a Generate call at its end: to the metrics, and as a span to the log.
#ifndef REPRISE_SERVICE_CALL_REPORT_H_
#define REPRISE_SERVICE_CALL_REPORT_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "scheduler/request.h"
#include "service/environment.h"
#include "service/trace_context.h"

namespace reprise::service {

// Filled in while the call goes on, by whoever has it.
struct CallReport {
  TraceContext trace;
  std::string tenant;
  absl::Time started;                             // when the call came
  const ServedModel* model = nullptr;             // once it is known
  absl::Time submitted = absl::InfiniteFuture();  // when the scheduler got it
  int64_t prompt_tokens = 0;
  int64_t restored_tokens = 0;  // that its session held
  // Of its sequence, once that has ended; of several, the one that ended last.
  std::optional<scheduler::Timeline> timeline;
  int64_t computed_tokens = 0, cached_tokens = 0, generated_tokens = 0;  // of all together
  absl::Duration commit;  // at the end of a session's turn

  void NoteResult(const scheduler::RequestResult& result);
};

// Counts the call, logs why it failed, and its span if --log-spans asks for that. What the client
// chose is in it only as `session` and `request_id`; never prompts, texts or tokens.
void Report(const Environment& environment, const CallReport& report, const absl::Status& status,
            const std::string& session, const std::string& request_id);

// The span as one JSON object on one line.
std::string SpanLine(const CallReport& report, absl::Time ended, const absl::Status& status,
                     const std::string& session, const std::string& request_id);

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_CALL_REPORT_H_
