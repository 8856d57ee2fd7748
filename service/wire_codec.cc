#include "service/wire_codec.h"

#include <google/protobuf/empty.pb.h>
#include <google/protobuf/unknown_field_set.h>

#include <map>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "models/tokenizer/utf8.h"
#include "service/errors.h"

namespace reprise::service {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::UnknownField;
using google::protobuf::UnknownFieldSet;

// No request of the contract nests deeper.
constexpr int kMaxDepth = 8;

struct BadString {
  std::string field;
  size_t offset;
};

std::optional<BadString> FindBadString(const UnknownFieldSet& fields, const Descriptor& type,
                                       const std::string& prefix, int depth) {
  if (depth > kMaxDepth) return std::nullopt;
  std::map<int, int> seen;  // field number -> entries so far
  for (int i = 0; i < fields.field_count(); ++i) {
    const UnknownField& entry = fields.field(i);
    const FieldDescriptor* field = type.FindFieldByNumber(entry.number());
    if (field == nullptr || entry.type() != UnknownField::TYPE_LENGTH_DELIMITED) continue;
    std::string path = absl::StrCat(prefix, field->name());
    if (field->is_repeated()) absl::StrAppend(&path, "[", seen[entry.number()]++, "]");
    if (field->type() == FieldDescriptor::TYPE_STRING) {
      const size_t bad = models::FindInvalidUtf8(entry.length_delimited());
      if (bad != std::string::npos) return BadString{path, bad};
    } else if (field->type() == FieldDescriptor::TYPE_MESSAGE) {
      UnknownFieldSet inner;
      if (!inner.ParseFromString(entry.length_delimited())) continue;
      auto found = FindBadString(inner, *field->message_type(), path + ".", depth + 1);
      if (found.has_value()) return found;
    }
  }
  return std::nullopt;
}

}  // namespace

absl::Status ExplainUnparsed(grpc::ByteBuffer bytes, const Descriptor& type) {
  // A message without fields takes any well-formed bytes and shows them as unknown fields.
  google::protobuf::Empty fields;
  if (grpc::SerializationTraits<google::protobuf::Empty>::Deserialize(&bytes, &fields).ok()) {
    const auto bad = FindBadString(fields.GetReflection()->GetUnknownFields(fields), type, "", 0);
    if (bad.has_value()) {
      return MakeError(v1::ERROR_REASON_INVALID_UTF8,
                       absl::StrCat(bad->field, ": not UTF-8 at byte ", bad->offset),
                       {{"field", bad->field}, {"offset", absl::StrCat(bad->offset)}});
    }
  }
  return MakeError(v1::ERROR_REASON_INVALID_FIELD,
                   absl::StrCat("malformed: the bytes are no ", type.name()));
}

}  // namespace reprise::service
