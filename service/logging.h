// Log lines on standard error. Logged are startup facts, changes of state, refusals and failures,
// once, where they are decided; never prompts, texts or tokens.
#ifndef REPRISE_SERVICE_LOGGING_H_
#define REPRISE_SERVICE_LOGGING_H_

#include <spdlog/spdlog.h>

#include <memory>
#include <string>
#include <string_view>

#include "service/server_options.h"

namespace reprise::service {

// A logger as `settings` want it; level and format are ones that the flags allow.
std::shared_ptr<spdlog::logger> MakeLogger(const LogSettings& settings);

// One whose lines are its messages, on standard error; null for "off".
std::shared_ptr<spdlog::logger> MakeSpanLogger(const TelemetrySettings& settings);

// `text` without what stands between "://" and the last "@" after it: names and passwords of URLs.
std::string Redacted(std::string_view text);

// What a client chose (ids, names), fit for a log line: printable ASCII, bounded.
std::string ForLog(std::string_view text);

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_LOGGING_H_
