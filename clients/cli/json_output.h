// Protobuf messages as JSON lines for --json.
#ifndef REPRISE_CLIENTS_CLI_JSON_OUTPUT_H_
#define REPRISE_CLIENTS_CLI_JSON_OUTPUT_H_

#include <google/protobuf/message.h>

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace reprise::cli {

using Json = nlohmann::ordered_json;

// `message` with the names and the order of the .proto. Unlike protobuf's own mapping, which is
// meant for APIs, this one is meant for jq and Python: 64-bit integers are numbers, enum values
// lose their type's prefix, bytes are text under the field's name when they are UTF-8 and base64
// under "<name>_base64" otherwise. Fields without presence are always there; unset messages and
// optionals are left out. Timestamps are RFC 3339 text, durations are seconds.
Json ToJson(const google::protobuf::Message& message);

// One line, without the newline. Invalid UTF-8 in strings comes out as U+FFFD.
std::string JsonLine(const Json& value);

// Whether `bytes` is whole, valid UTF-8.
bool IsUtf8(std::string_view bytes);

// `bytes` as a quoted JSON string, for tables of tokens; what is not UTF-8 becomes \xNN.
std::string Quoted(std::string_view bytes);

}  // namespace reprise::cli

#endif  // REPRISE_CLIENTS_CLI_JSON_OUTPUT_H_
