// Tokenizers small enough to be written down in a test.
#ifndef REPRISE_TESTS_TOKENIZER_SMALL_TOKENIZERS_H_
#define REPRISE_TESTS_TOKENIZER_SMALL_TOKENIZERS_H_

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_format.h"
#include "models/tokenizer/hf_byte_level.h"
#include "models/tokenizer/hf_tokenizer.h"
#include "models/tokenizer/sentencepiece_tokenizer.h"

namespace reprise::models {

// A byte-level tokenizer.json: ids 0-255 are the bytes, then "he", "ll", "hell", "hello" and
// " w"; 261 is the special token "<|end|>", 262 the plain added token of four spaces.
inline nlohmann::json ByteLevelJson() {
  nlohmann::json vocab;
  for (int byte = 0; byte < 256; ++byte) {
    vocab[std::string(ByteLevelCharacter(static_cast<uint8_t>(byte)))] = byte;
  }
  int id = 256;
  for (const char* token : {"he", "ll", "hell", "hello", "\u0120w"}) vocab[token] = id++;
  const auto added = [](int id, const char* text, bool special) {
    return nlohmann::json{{"id", id},          {"content", text}, {"single_word", false},
                          {"lstrip", false},   {"rstrip", false}, {"normalized", !special},
                          {"special", special}};
  };
  nlohmann::json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", {added(261, "<|end|>", true), added(262, "    ", false)}},
          {"normalizer", {{"type", "NFC"}}},
          {"pre_tokenizer", byte_level},
          {"post_processor", byte_level},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"},
            {"vocab", vocab},
            {"merges", {"h e", "l l", "he ll", "hell o", "\u0120 w"}}}}};
}

// A Llama-like tokenizer.json: "<unk>", "<s>", "</s>", 256 bytes (ids 3-258), then the
// characters and merges of "▁hello".
inline nlohmann::json ByteFallbackJson() {
  nlohmann::json vocab = {{"<unk>", 0}, {"<s>", 1}, {"</s>", 2}};
  for (int byte = 0; byte < 256; ++byte) vocab[absl::StrFormat("<0x%02X>", byte)] = 3 + byte;
  int id = 259;
  for (const char* token :
       {"\u2581", "h", "e", "l", "o", "he", "ll", "hell", "hello", "\u2581hello"}) {
    vocab[token] = id++;
  }
  nlohmann::json added = nlohmann::json::array();
  for (const auto& [id, text] : {std::pair{0, "<unk>"}, {1, "<s>"}, {2, "</s>"}}) {
    added.push_back({{"id", id}, {"content", text}, {"special", true}, {"normalized", false}});
  }
  const nlohmann::json space = {{"String", " "}}, bar = {{"String", "\u2581"}};
  return {{"added_tokens", added},
          {"normalizer",
           {{"type", "Sequence"},
            {"normalizers",
             {{{"type", "Prepend"}, {"prepend", "\u2581"}},
              {{"type", "Replace"}, {"pattern", space}, {"content", "\u2581"}}}}}},
          {"post_processor",
           {{"type", "TemplateProcessing"},
            {"single",
             {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}},
              {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
            {"pair", nlohmann::json::array()},
            {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {1}}, {"tokens", {"<s>"}}}}}}}},
          {"decoder",
           {{"type", "Sequence"},
            {"decoders",
             {{{"type", "Replace"}, {"pattern", bar}, {"content", " "}},
              {{"type", "ByteFallback"}},
              {{"type", "Fuse"}},
              {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}}},
          {"model",
           {{"type", "BPE"},
            {"unk_token", "<unk>"},
            {"fuse_unk", true},
            {"byte_fallback", true},
            {"vocab", vocab},
            {"merges",
             nlohmann::json::array(
                 {{"h", "e"}, {"l", "l"}, {"he", "ll"}, {"hell", "o"}, {"\u2581", "hello"}})}}}};
}

// The pieces of a word are marked by "▁", and the first token of a text loses it.
inline nlohmann::json MetaspaceJson() {
  nlohmann::json json = ByteFallbackJson();
  const nlohmann::json metaspace = {
      {"type", "Metaspace"}, {"replacement", "\u2581"}, {"prepend_scheme", "always"}};
  json.erase("normalizer");
  json["pre_tokenizer"] = metaspace;
  json["decoder"] = metaspace;
  return json;
}

inline std::unique_ptr<Tokenizer> LoadJson(const nlohmann::json& json) {
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = HfFromJson(json.dump());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

// A SentencePiece model file, field by field.
class SentencePieceFile {
 public:
  enum Type { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

  SentencePieceFile& Piece(std::string_view text, float score, Type type = kNormal) {
    std::string piece = Bytes(1, text);
    piece += "\x15";  // field 2, four bytes
    char raw[4];
    std::memcpy(raw, &score, sizeof(raw));
    piece.append(raw, sizeof(raw));
    piece += Varint(3, type);
    pieces_ += Bytes(1, piece);
    return *this;
  }
  SentencePieceFile& AllBytes() {
    for (int byte = 0; byte < 256; ++byte) Piece(absl::StrFormat("<0x%02X>", byte), 0, kByte);
    return Trainer(35, 1);
  }
  SentencePieceFile& Trainer(int field, uint64_t value) {
    trainer_ += Varint(field, value);
    return *this;
  }
  SentencePieceFile& Normalizer(int field, uint64_t value) {
    normalizer_ += Varint(field, value);
    return *this;
  }
  SentencePieceFile& CharsMap(std::string_view blob) {
    normalizer_ += Bytes(2, blob);
    return *this;
  }
  std::string Build() const { return pieces_ + Bytes(2, trainer_) + Bytes(3, normalizer_); }

  static std::string Bytes(int field, std::string_view payload) {
    return Number(static_cast<uint64_t>(field) << 3 | 2) + Number(payload.size()) +
           std::string(payload);
  }
  static std::string Varint(int field, uint64_t value) {
    return Number(static_cast<uint64_t>(field) << 3) + Number(value);
  }
  static std::string Number(uint64_t value) {
    std::string out;
    for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
    out.push_back(static_cast<char>(value));
    return out;
  }

 private:
  std::string pieces_, trainer_, normalizer_;
};

// BPE with byte fallback and a dummy prefix: "<unk>", "<s>", "</s>", 256 bytes (ids 3-258), "▁"
// (259), "h", "e", "l", "o", "he" (264), "ll", "hell", "hello" (267), "▁hello" (268), and the
// user-defined "<sep>" (269).
inline SentencePieceFile SmallSentencePiece() {
  SentencePieceFile file;
  file.Piece("<unk>", 0, SentencePieceFile::kUnknown)
      .Piece("<s>", 0, SentencePieceFile::kControl)
      .Piece("</s>", 0, SentencePieceFile::kControl)
      .AllBytes();
  for (const char* text : {"\u2581", "h", "e", "l", "o"}) file.Piece(text, -100);
  float score = -1;
  for (const char* text : {"he", "ll", "hell", "hello", "\u2581hello"}) file.Piece(text, score--);
  file.Piece("<sep>", 0, SentencePieceFile::kUserDefined);
  return file.Trainer(3, 2).Normalizer(3, 1).Normalizer(4, 0);
}

inline std::unique_ptr<Tokenizer> LoadSentencePiece(const SentencePieceFile& file,
                                                    const TokenizerConfig& config = {}) {
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer =
      SentencePieceFromBytes(file.Build(), config, "fingerprint");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

inline std::vector<int32_t> EncodeIds(const Tokenizer& tokenizer, std::string_view text,
                                      bool parse_special = false, bool add_bos = false) {
  const auto ids = tokenizer.Encode(text, {.add_bos = add_bos, .parse_special = parse_special});
  EXPECT_TRUE(ids.ok()) << ids.status();
  return ids.ok() ? *ids : std::vector<int32_t>();
}

}  // namespace reprise::models

#endif  // REPRISE_TESTS_TOKENIZER_SMALL_TOKENIZERS_H_
