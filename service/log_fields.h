// Facts about a call beside a log line's message.
#ifndef REPRISE_SERVICE_LOG_FIELDS_H_
#define REPRISE_SERVICE_LOG_FIELDS_H_

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"

namespace reprise::service {

// A message with facts about the call that it is about: what MakeLogger made shows them as members
// of their own in JSON, and as key=value behind the message in text. Empty values are left out, the
// others go through ForLog.
std::string WithFields(std::string_view message,
                       std::initializer_list<std::pair<std::string_view, std::string_view>> fields);

// Code and message, without the details that the wire carries.
std::string ForLog(const absl::Status& status);

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_LOG_FIELDS_H_
