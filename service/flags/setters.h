// What the tables of flags are made of: functions that check a text and set one field.
#ifndef REPRISE_SERVICE_FLAGS_SETTERS_H_
#define REPRISE_SERVICE_FLAGS_SETTERS_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/time/time.h"
#include "service/server_options.h"

namespace reprise::service {

using Setter = std::function<absl::Status(const std::string&, ServerOptions*)>;

inline absl::Status NotAllowed() { return absl::InvalidArgumentError("not allowed"); }

// An integer field of one of the groups.
template <typename Group, typename Int>
Setter Integer(Group ServerOptions::*group, Int Group::*field, int64_t min, int64_t max) {
  return [=](const std::string& text, ServerOptions* options) {
    int64_t value;
    if (!absl::SimpleAtoi(text, &value) || value < min || value > max) return NotAllowed();
    options->*group.*field = static_cast<Int>(value);
    return absl::OkStatus();
  };
}

// Seconds, as a decimal number; `zero_is_forever` for times to live.
template <typename Group>
Setter Seconds(Group ServerOptions::*group, absl::Duration Group::*field, double max,
               bool zero_is_forever) {
  return [=](const std::string& text, ServerOptions* options) {
    double value;
    if (!absl::SimpleAtod(text, &value) || !(value >= 0) || value > max) return NotAllowed();
    options->*group.*field =
        zero_is_forever && value == 0 ? absl::InfiniteDuration() : absl::Seconds(value);
    return absl::OkStatus();
  };
}

// A number that nobody need choose: "auto" is 0 here.
template <typename Group, typename Int>
Setter IntegerOrAuto(Group ServerOptions::*group, Int Group::*field, int64_t max) {
  return [=, integer = Integer(group, field, 1, max)](const std::string& text,
                                                      ServerOptions* options) {
    if (text != "auto") return integer(text, options);
    options->*group.*field = 0;
    return absl::OkStatus();
  };
}

// A number of bytes that may be left open: "auto".
template <typename Group>
Setter BytesOrAuto(Group ServerOptions::*group, std::optional<int64_t> Group::*field) {
  return [=](const std::string& text, ServerOptions* options) {
    (options->*group.*field).reset();
    if (text == "auto") return absl::OkStatus();
    int64_t bytes;
    if (!absl::SimpleAtoi(text, &bytes) || bytes < 0) return NotAllowed();
    options->*group.*field = bytes;
    return absl::OkStatus();
  };
}

// Seconds within a range.
template <typename Group>
Setter SecondsFrom(Group ServerOptions::*group, absl::Duration Group::*field, double min,
                   double max) {
  return [=](const std::string& text, ServerOptions* options) {
    double value;
    if (!absl::SimpleAtod(text, &value) || !(value >= min && value <= max)) return NotAllowed();
    options->*group.*field = absl::Seconds(value);
    return absl::OkStatus();
  };
}

// Any text but the empty one.
template <typename Group>
Setter Text(Group ServerOptions::*group, std::string Group::*field) {
  return [=](const std::string& text, ServerOptions* options) {
    if (text.empty()) return NotAllowed();
    options->*group.*field = text;
    return absl::OkStatus();
  };
}

// HOST:PORT.
template <typename Group>
Setter Address(Group ServerOptions::*group, std::string Group::*field) {
  return [=](const std::string& text, ServerOptions* options) {
    const size_t colon = text.rfind(':');
    int port;
    if (colon == std::string::npos || colon == 0 ||
        !absl::SimpleAtoi(text.substr(colon + 1), &port) || port < 0 || port > 65535) {
      return NotAllowed();
    }
    options->*group.*field = text;
    return absl::OkStatus();
  };
}

template <typename Group>
Setter OnOrOff(Group ServerOptions::*group, bool Group::*field) {
  return [=](const std::string& text, ServerOptions* options) {
    if (text != "on" && text != "off") return NotAllowed();
    options->*group.*field = text == "on";
    return absl::OkStatus();
  };
}

template <typename Group>
Setter OneOf(Group ServerOptions::*group, std::string Group::*field, std::set<std::string> values) {
  return [=](const std::string& text, ServerOptions* options) {
    if (values.count(text) == 0) return NotAllowed();
    options->*group.*field = text;
    return absl::OkStatus();
  };
}

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_FLAGS_SETTERS_H_
