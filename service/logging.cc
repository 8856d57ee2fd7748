#include "service/logging.h"

#include <spdlog/formatter.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "service/errors.h"
#include "service/log_fields.h"

namespace reprise::service {
namespace {

constexpr size_t kMaxLogged = 128;

// Before a field's name and before its value, within the payload. ForLog lets neither through.
constexpr char kField = '\x1e';
constexpr char kValue = '\x1f';

// One JSON object per line. A pattern would not escape the message.
class JsonFormatter final : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& out) override {
    const std::vector<std::string> parts =
        absl::StrSplit(absl::string_view(message.payload.data(), message.payload.size()), kField);
    nlohmann::ordered_json line = {
        {"time",
         absl::FormatTime(absl::RFC3339_full, absl::FromChrono(message.time), absl::UTCTimeZone())},
        {"level", std::string(spdlog::level::to_string_view(message.level).data())},
        {"message", parts[0]}};
    for (size_t i = 1; i < parts.size(); ++i) {
      const std::pair<std::string, std::string> field =
          absl::StrSplit(parts[i], absl::MaxSplits(kValue, 1));
      line.emplace(field.first, field.second);  // none can replace those above
    }
    const std::string text =
        line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
    out.append(text.data(), text.data() + text.size());
  }
  std::unique_ptr<spdlog::formatter> clone() const override {
    return std::make_unique<JsonFormatter>();
  }
};

class TextFormatter final : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& out) override {
    std::string text(message.payload.data(), message.payload.size());
    std::replace(text.begin(), text.end(), kField, ' ');
    std::replace(text.begin(), text.end(), kValue, '=');
    spdlog::details::log_msg shown = message;
    shown.payload = text;
    pattern_.format(shown, out);
  }
  std::unique_ptr<spdlog::formatter> clone() const override {
    return std::make_unique<TextFormatter>();
  }

 private:
  spdlog::pattern_formatter pattern_{"%Y-%m-%dT%H:%M:%S.%e%z %l %v"};
};

}  // namespace

std::string ForLog(const absl::Status& status) {
  return ForLog(status.ToString(absl::StatusToStringMode::kWithNoExtraData));
}

std::string WithFields(
    std::string_view message,
    std::initializer_list<std::pair<std::string_view, std::string_view>> fields) {
  std::string line(message);
  for (const auto& [name, value] : fields) {
    if (value.empty()) continue;
    line += kField;
    line += name;
    line += kValue;
    line += ForLog(value);
  }
  return line;
}

std::shared_ptr<spdlog::logger> MakeLogger(const LogSettings& settings) {
  auto logger = std::make_shared<spdlog::logger>("reprised",
                                                 std::make_shared<spdlog::sinks::stderr_sink_mt>());
  if (settings.format == "json") {
    logger->set_formatter(std::make_unique<JsonFormatter>());
  } else {
    logger->set_formatter(std::make_unique<TextFormatter>());
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
