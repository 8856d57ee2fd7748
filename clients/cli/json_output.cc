#include "clients/cli/json_output.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/duration.pb.h>
#include <google/protobuf/timestamp.pb.h>
#include <google/protobuf/util/time_util.h>

#include <cmath>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace reprise::cli {
namespace {

using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// "MAX_TOKENS" from FINISH_REASON_MAX_TOKENS of the enum FinishReason.
std::string EnumName(const EnumValueDescriptor& value) {
  std::string prefix;
  for (char c : value.type()->name()) {
    if (absl::ascii_isupper(c) && !prefix.empty()) prefix += '_';
    prefix += absl::ascii_toupper(c);
  }
  prefix += '_';
  const std::string& name = value.name();
  return name.starts_with(prefix) ? name.substr(prefix.size()) : name;
}

Json Number(double value) {
  // JSON has no infinities; a log-probability can be one.
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return value;
}

// The shortest decimal that reads back as the same float, so that 0.7f does not print as 0.69999.
Json FloatNumber(float value) {
  if (!std::isfinite(value)) return Number(value);
  for (int digits = 6; digits < 9; ++digits) {
    char text[32];
    std::snprintf(text, sizeof(text), "%.*g", digits, static_cast<double>(value));
    if (std::strtof(text, nullptr) == value) return std::strtod(text, nullptr);
  }
  return static_cast<double>(value);
}

Json MessageValue(const Message& message) {
  if (message.GetDescriptor() == google::protobuf::Timestamp::descriptor()) {
    google::protobuf::Timestamp time;
    time.CopyFrom(message);
    return google::protobuf::util::TimeUtil::ToString(time);
  }
  if (message.GetDescriptor() == google::protobuf::Duration::descriptor()) {
    google::protobuf::Duration duration;
    duration.CopyFrom(message);
    return static_cast<double>(duration.seconds()) + duration.nanos() * 1e-9;
  }
  return ToJson(message);
}

// Element `index` of a repeated field, or the value of a single one when index is -1.
Json Value(const Message& m, const Reflection& r, const FieldDescriptor* f, int index) {
  const bool one = index < 0;
  switch (f->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return one ? r.GetInt32(m, f) : r.GetRepeatedInt32(m, f, index);
    case FieldDescriptor::CPPTYPE_INT64:
      return one ? r.GetInt64(m, f) : r.GetRepeatedInt64(m, f, index);
    case FieldDescriptor::CPPTYPE_UINT32:
      return one ? r.GetUInt32(m, f) : r.GetRepeatedUInt32(m, f, index);
    case FieldDescriptor::CPPTYPE_UINT64:
      return one ? r.GetUInt64(m, f) : r.GetRepeatedUInt64(m, f, index);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return Number(one ? r.GetDouble(m, f) : r.GetRepeatedDouble(m, f, index));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return FloatNumber(one ? r.GetFloat(m, f) : r.GetRepeatedFloat(m, f, index));
    case FieldDescriptor::CPPTYPE_BOOL:
      return one ? r.GetBool(m, f) : r.GetRepeatedBool(m, f, index);
    case FieldDescriptor::CPPTYPE_ENUM:
      return EnumName(*(one ? r.GetEnum(m, f) : r.GetRepeatedEnum(m, f, index)));
    case FieldDescriptor::CPPTYPE_STRING:
      return one ? r.GetString(m, f) : r.GetRepeatedString(m, f, index);
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return MessageValue(one ? r.GetMessage(m, f) : r.GetRepeatedMessage(m, f, index));
  }
  return nullptr;
}

Json MapValue(const Message& m, const Reflection& r, const FieldDescriptor* f) {
  Json object = Json::object();
  for (int i = 0; i < r.FieldSize(m, f); ++i) {
    const Message& entry = r.GetRepeatedMessage(m, f, i);
    const Json key = Value(entry, *entry.GetReflection(), entry.GetDescriptor()->map_key(), -1);
    object[key.is_string() ? key.get<std::string>() : key.dump()] =
        Value(entry, *entry.GetReflection(), entry.GetDescriptor()->map_value(), -1);
  }
  return object;
}

}  // namespace

Json ToJson(const Message& message) {
  const Reflection& reflection = *message.GetReflection();
  Json object = Json::object();
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor* field = message.GetDescriptor()->field(i);
    if (field->is_map()) {
      object[field->name()] = MapValue(message, reflection, field);
      continue;
    }
    if (field->is_repeated()) {
      Json list = Json::array();
      for (int j = 0; j < reflection.FieldSize(message, field); ++j) {
        Json value = Value(message, reflection, field, j);
        // An element has no name of its own to change, so lists of bytes are lossy.
        list.push_back(std::move(value));
      }
      object[field->name()] = std::move(list);
      continue;
    }
    if (field->has_presence() && !reflection.HasField(message, field)) continue;
    Json value = Value(message, reflection, field, -1);
    if (field->type() == FieldDescriptor::TYPE_BYTES && !IsUtf8(value.get<std::string>())) {
      object[field->name() + "_base64"] = absl::Base64Escape(value.get<std::string>());
    } else {
      object[field->name()] = std::move(value);
    }
  }
  return object;
}

std::string JsonLine(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

namespace {

// Length of the UTF-8 character at the start of `bytes`, 0 when there is none.
size_t CharacterLength(std::string_view bytes) {
  const auto at = [&](size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned char first = at(0);
  if (first < 0x80) return 1;
  const size_t length = first >= 0xF0 && first <= 0xF4   ? 4
                        : first >= 0xE0 && first <= 0xEF ? 3
                        : first >= 0xC2 && first <= 0xDF ? 2
                                                         : 0;
  if (length == 0 || bytes.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((at(i) & 0xC0) != 0x80) return 0;
  }
  // Overlong forms, surrogates, beyond U+10FFFF.
  if (first == 0xE0 && at(1) < 0xA0) return 0;
  if (first == 0xED && at(1) > 0x9F) return 0;
  if (first == 0xF0 && at(1) < 0x90) return 0;
  if (first == 0xF4 && at(1) > 0x8F) return 0;
  return length;
}

}  // namespace

bool IsUtf8(std::string_view bytes) {
  while (!bytes.empty()) {
    const size_t length = CharacterLength(bytes);
    if (length == 0) return false;
    bytes.remove_prefix(length);
  }
  return true;
}

std::string Quoted(std::string_view bytes) {
  std::string out = "\"";
  while (!bytes.empty()) {
    const size_t length = CharacterLength(bytes);
    if (length == 0) {
      absl::StrAppend(&out, "\\x",
                      absl::Hex(static_cast<unsigned char>(bytes[0]), absl::kZeroPad2));
      bytes.remove_prefix(1);
      continue;
    }
    const std::string quoted = Json(std::string(bytes.substr(0, length))).dump();
    out += quoted.substr(1, quoted.size() - 2);
    bytes.remove_prefix(length);
  }
  return out + "\"";
}

}  // namespace reprise::cli
