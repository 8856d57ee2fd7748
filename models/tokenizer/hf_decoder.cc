#include "models/tokenizer/hf_decoder.h"

#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "base/status_macros.h"
#include "models/tokenizer/hf_byte_level.h"
#include "models/tokenizer/hf_regex.h"
#include "models/tokenizer/text.h"

namespace reprise::models {
namespace {

// "<0x0A>" to 10; nullopt for anything else.
std::optional<uint8_t> ByteOfToken(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return std::nullopt;
  int value = 0;
  for (const char c : text.substr(3, 2)) {
    if (!absl::ascii_isxdigit(static_cast<unsigned char>(c))) return std::nullopt;
    value = value * 16 + (absl::ascii_isdigit(static_cast<unsigned char>(c))
                              ? c - '0'
                              : absl::ascii_tolower(static_cast<unsigned char>(c)) - 'a' + 10);
  }
  return static_cast<uint8_t>(value);
}

std::string StripText(std::string_view text, std::string_view content, int64_t start,
                      int64_t stop) {
  for (; start > 0 && text.starts_with(content); --start) text.remove_prefix(content.size());
  for (; stop > 0 && text.ends_with(content); --stop) text.remove_suffix(content.size());
  return std::string(text);
}

// Reads the steps one by one and applies each to all tokens.
class Builder {
 public:
  explicit Builder(const std::vector<std::string>& texts) {
    decoder_.bytes = texts;
    decoder_.is_byte.resize(texts.size());
  }

  absl::Status Add(const JsonRef& json, int depth) {
    ASSIGN_OR_RETURN(const std::string type, json.String("type"));
    if (type == "Sequence") {
      RETURN_IF_ERROR(json.OnlyKeys({"type", "decoders"}));
      if (depth > 8) return json.Unimplemented("so deep a nesting");
      ASSIGN_OR_RETURN(const JsonRef list, json.Require("decoders"));
      ASSIGN_OR_RETURN(const std::vector<JsonRef> items, list.Items());
      for (const JsonRef& item : items) RETURN_IF_ERROR(Add(item, depth + 1));
      return absl::OkStatus();
    }
    if (type == "Fuse") {
      fused_ = true;
      return json.OnlyKeys({"type"});
    }
    if (type == "Strip") return AddStrip(json);
    if (fused_ || fallback_) {
      return json.Unimplemented(Cat("'", type, "' behind ByteFallback or Fuse"));
    }
    if (type == "ByteFallback") return AddByteFallback(json);
    if (type == "ByteLevel") return AddByteLevel(json);
    if (type == "Replace") return AddReplace(json);
    if (type == "Metaspace") return AddMetaspace(json);
    return json.Unimplemented(Cat("decoder '", type, "'"));
  }

  HfDecoder Finish() { return std::move(decoder_); }

 private:
  template <typename Change>
  absl::Status ForAll(const Change& change) {
    for (std::string& text : decoder_.bytes) RETURN_IF_ERROR(change(&text));
    for (auto& [id, text] : decoder_.first_bytes) RETURN_IF_ERROR(change(&text));
    return absl::OkStatus();
  }

  absl::Status AddByteFallback(const JsonRef& json) {
    RETURN_IF_ERROR(json.OnlyKeys({"type"}));
    fallback_ = true;
    decoder_.rules.bytes = DecodeRules::Bytes::kRunWhole;
    for (size_t id = 0; id < decoder_.bytes.size(); ++id) {
      const std::optional<uint8_t> byte = ByteOfToken(decoder_.bytes[id]);
      if (!byte) continue;
      decoder_.is_byte[id] = true;
      decoder_.bytes[id] = std::string(1, static_cast<char>(*byte));
    }
    return absl::OkStatus();
  }

  absl::Status AddByteLevel(const JsonRef& json) {
    // The options are those of the pre-tokenizer of the same name.
    RETURN_IF_ERROR(json.OnlyKeys({"type", "add_prefix_space", "trim_offsets", "use_regex"}));
    fused_ = true;
    return ForAll([](std::string* text) {
      if (auto bytes = ByteLevelBytes(*text)) *text = *std::move(bytes);
      return absl::OkStatus();
    });
  }

  absl::Status AddReplace(const JsonRef& json) {
    RETURN_IF_ERROR(json.OnlyKeys({"type", "pattern", "content"}));
    ASSIGN_OR_RETURN(const JsonRef pattern_json, json.Require("pattern"));
    ASSIGN_OR_RETURN(const Pattern pattern, Pattern::FromJson(pattern_json));
    if (pattern.literal() == nullptr) return pattern_json.Unimplemented("a regular expression");
    ASSIGN_OR_RETURN(const std::string content, json.String("content"));
    return ForAll([&](std::string* text) -> absl::Status {
      if (text->find(*pattern.literal()) == std::string::npos) return absl::OkStatus();
      if (text->size() * (content.size() + 1) > kMaxTokenBytes) {
        return json.Invalid("makes a token too long");
      }
      *text = ReplaceAll(*text, *pattern.literal(), content);
      return absl::OkStatus();
    });
  }

  absl::Status AddMetaspace(const JsonRef& json) {
    RETURN_IF_ERROR(json.OnlyKeys(
        {"type", "replacement", "prepend_scheme", "split", "add_prefix_space", "str_rep"}));
    if (decoder_.rules.first != DecodeRules::First::kNone)
      return json.Unimplemented("a second one");
    ASSIGN_OR_RETURN(const std::string replacement, json.Character("replacement"));
    bool prepends = true;
    if (const auto scheme = json.Find("prepend_scheme")) {
      ASSIGN_OR_RETURN(const std::string name, scheme->String());
      if (name != "always" && name != "first" && name != "never") {
        return scheme->Unimplemented(Cat("scheme '", name, "'"));
      }
      prepends = name != "never";
    }
    ASSIGN_OR_RETURN(const bool add_prefix_space, json.BoolOr("add_prefix_space", true));
    if (!add_prefix_space && prepends) {
      return json.Invalid("add_prefix_space does not match prepend_scheme");
    }
    for (size_t id = 0; id < decoder_.bytes.size(); ++id) {
      std::string& text = decoder_.bytes[id];
      if (text.find(replacement) == std::string::npos) continue;
      if (prepends) {
        decoder_.first_bytes[static_cast<int32_t>(id)] = ReplaceAll(text, replacement, "");
      }
      text = ReplaceAll(text, replacement, " ");
    }
    if (prepends) decoder_.rules.first = DecodeRules::First::kFirstToken;
    return absl::OkStatus();
  }

  absl::Status AddStrip(const JsonRef& json) {
    RETURN_IF_ERROR(json.OnlyKeys({"type", "content", "start", "stop"}));
    ASSIGN_OR_RETURN(const std::string content, json.Character("content"));
    ASSIGN_OR_RETURN(const JsonRef start_json, json.Require("start"));
    ASSIGN_OR_RETURN(const JsonRef stop_json, json.Require("stop"));
    ASSIGN_OR_RETURN(const int64_t start, start_json.Int());
    ASSIGN_OR_RETURN(const int64_t stop, stop_json.Int());
    if (start < 0 || start > std::numeric_limits<int32_t>::max()) {
      return start_json.Invalid("is out of range");
    }
    if (stop < 0) return stop_json.Invalid("is out of range");
    if (!fused_) {
      if (fallback_) return json.Unimplemented("'Strip' between ByteFallback and Fuse");
      return ForAll([&](std::string* text) {
        *text = StripText(*text, content, start, stop);
        return absl::OkStatus();
      });
    }
    if (stop != 0) return stop_json.Unimplemented("stripping at the end of the text");
    if (decoder_.rules.strip_count != 0) return json.Unimplemented("a second 'Strip' of the text");
    decoder_.rules.strip_text = content;
    decoder_.rules.strip_count = static_cast<uint32_t>(start);
    return absl::OkStatus();
  }

  static constexpr size_t kMaxTokenBytes = 64 << 10;

  HfDecoder decoder_;
  bool fallback_ = false;  // byte tokens have become bytes
  bool fused_ = false;     // the text is one piece
};

}  // namespace

absl::StatusOr<HfDecoder> HfDecoder::FromJson(const std::optional<JsonRef>& json,
                                              const std::vector<std::string>& token_texts) {
  // Without one the reference puts a space between all tokens, which no language model means.
  if (!json) return absl::UnimplementedError("/decoder: absent (not supported)");
  Builder builder(token_texts);
  RETURN_IF_ERROR(builder.Add(*json, 0));
  return builder.Finish();
}

}  // namespace reprise::models
