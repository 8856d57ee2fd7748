#include "service/logging.h"

#include <spdlog/formatter.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/time/time.h"
#include "service/errors.h"

namespace reprise::service {
namespace {

constexpr size_t kMaxLogged = 128;

// One JSON object per line. A pattern would not escape the message.
class JsonFormatter final : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& out) override {
    const nlohmann::ordered_json line = {
        {"time",
         absl::FormatTime(absl::RFC3339_full, absl::FromChrono(message.time), absl::UTCTimeZone())},
        {"level", std::string(spdlog::level::to_string_view(message.level).data())},
        {"message", std::string(message.payload.data(), message.payload.size())}};
    const std::string text =
        line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
    out.append(text.data(), text.data() + text.size());
  }
  std::unique_ptr<spdlog::formatter> clone() const override {
    return std::make_unique<JsonFormatter>();
  }
};

}  // namespace

std::shared_ptr<spdlog::logger> MakeLogger(const LogSettings& settings) {
  auto logger = std::make_shared<spdlog::logger>("reprised",
                                                 std::make_shared<spdlog::sinks::stderr_sink_mt>());
  if (settings.format == "json") {
    logger->set_formatter(std::make_unique<JsonFormatter>());
  } else {
    logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %l %v");
  }
  logger->set_level(spdlog::level::from_str(settings.level));
  logger->flush_on(spdlog::level::info);
  return logger;
}

std::shared_ptr<spdlog::logger> MakeSpanLogger(const TelemetrySettings& settings) {
  if (settings.spans == "off") return nullptr;
  auto logger =
      std::make_shared<spdlog::logger>("spans", std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_pattern("%v");
  logger->flush_on(spdlog::level::info);
  return logger;
}

std::string Redacted(std::string_view text) {
  const size_t scheme = text.find("://");
  if (scheme == text.npos) return std::string(text);
  const size_t begin = scheme + 3, at = text.rfind('@');
  if (at == text.npos || at < begin) return std::string(text);
  return std::string(text.substr(0, begin)) + "***" + std::string(text.substr(at));
}

std::string ForLog(std::string_view text) {
  const std::string_view kept = Shortened(text, kMaxLogged);
  return absl::CHexEscape(absl::string_view(kept.data(), kept.size()));
}

}  // namespace reprise::service
