#include "models/tokenizer/hf_post_processor.h"

#include <string>
#include <utility>

#include "base/status_macros.h"
#include "models/tokenizer/text.h"

namespace reprise::models {
namespace {

absl::Status AppendSpecial(const JsonRef& specials, const JsonRef& item, const HfVocab& vocab,
                           std::vector<int32_t>* prefix) {
  ASSIGN_OR_RETURN(const std::string name, item.String("id"));
  ASSIGN_OR_RETURN(const JsonRef special, specials.Require(name));
  ASSIGN_OR_RETURN(const JsonRef ids, special.Require("ids"));
  ASSIGN_OR_RETURN(const std::vector<JsonRef> items, ids.Items());
  for (const JsonRef& id_json : items) {
    ASSIGN_OR_RETURN(const int64_t id, id_json.Int());
    if (id < 0 || id >= vocab.size()) return id_json.Invalid("is outside the vocabulary");
    prefix->push_back(static_cast<int32_t>(id));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> ReadTemplate(const JsonRef& json, const HfVocab& vocab) {
  RETURN_IF_ERROR(json.OnlyKeys({"type", "single", "pair", "special_tokens"}));
  ASSIGN_OR_RETURN(const JsonRef single, json.Require("single"));
  ASSIGN_OR_RETURN(const std::vector<JsonRef> items, single.Items());
  ASSIGN_OR_RETURN(const JsonRef specials, json.Require("special_tokens"));
  std::vector<int32_t> prefix;
  bool text_seen = false;
  for (const JsonRef& item : items) {
    RETURN_IF_ERROR(item.OnlyKeys({"SpecialToken", "Sequence"}));
    if (const auto sequence = item.Find("Sequence")) {
      ASSIGN_OR_RETURN(const std::string name, sequence->String("id"));
      if (name != "A" || text_seen) return sequence->Unimplemented("a second text");
      text_seen = true;
      continue;
    }
    ASSIGN_OR_RETURN(const JsonRef special, item.Require("SpecialToken"));
    if (text_seen) return special.Unimplemented("a token behind the text");
    RETURN_IF_ERROR(AppendSpecial(specials, special, vocab, &prefix));
  }
  if (!text_seen) return single.Invalid("has no text");
  return prefix;
}

absl::StatusOr<std::vector<int32_t>> Read(const JsonRef& json, const HfVocab& vocab, int depth) {
  ASSIGN_OR_RETURN(const std::string type, json.String("type"));
  if (type == "TemplateProcessing") return ReadTemplate(json, vocab);
  if (type == "ByteLevel") {
    RETURN_IF_ERROR(json.OnlyKeys({"type", "add_prefix_space", "trim_offsets", "use_regex"}));
    return std::vector<int32_t>();
  }
  if (type != "Sequence") return json.Unimplemented(Cat("post-processor '", type, "'"));
  RETURN_IF_ERROR(json.OnlyKeys({"type", "processors"}));
  if (depth > 8) return json.Unimplemented("so deep a nesting");
  ASSIGN_OR_RETURN(const JsonRef list, json.Require("processors"));
  ASSIGN_OR_RETURN(const std::vector<JsonRef> items, list.Items());
  std::vector<int32_t> prefix;
  for (const JsonRef& item : items) {
    ASSIGN_OR_RETURN(const std::vector<int32_t> ids, Read(item, vocab, depth + 1));
    prefix.insert(prefix.begin(), ids.begin(), ids.end());  // the later one wraps the earlier
  }
  return prefix;
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> ReadPromptPrefix(const std::optional<JsonRef>& json,
                                                      const HfVocab& vocab) {
  if (!json) return std::vector<int32_t>();
  return Read(*json, vocab, 0);
}

}  // namespace reprise::models
