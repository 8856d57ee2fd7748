#include "models/tokenizer/hf_tokenizer.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "base/hash.h"
#include "base/status_macros.h"
#include "models/tokenizer/detokenizer.h"
#include "models/tokenizer/hf_added_tokens.h"
#include "models/tokenizer/hf_bpe.h"
#include "models/tokenizer/hf_decoder.h"
#include "models/tokenizer/hf_json.h"
#include "models/tokenizer/hf_normalizer.h"
#include "models/tokenizer/hf_post_processor.h"
#include "models/tokenizer/hf_pre_tokenizer.h"
#include "models/tokenizer/hf_vocab.h"
#include "models/tokenizer/text.h"
#include "models/tokenizer/text_limits.h"

namespace reprise::models {
namespace {

// Within one Encode: the ids of words seen before, as positions in the result. Longer words
// hardly ever come twice.
constexpr size_t kMaxCachedWordBytes = 48;
using WordCache = absl::flat_hash_map<std::string_view, std::pair<size_t, size_t>>;

class HfTokenizer : public Tokenizer {
 public:
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(const JsonRef& json,
                                                           const TokenizerConfig& config,
                                                           std::string fingerprint);

  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                              const EncodeOptions& options) const override;
  absl::StatusOr<std::string> TokenBytes(int32_t id) const override {
    RETURN_IF_ERROR(CheckTokenId(id, vocab_size()));
    return decoder_.bytes[id];
  }
  absl::StatusOr<std::string> FirstTokenBytes(int32_t id) const override {
    const auto it = decoder_.first_bytes.find(id);
    if (it == decoder_.first_bytes.end()) return TokenBytes(id);
    return it->second;
  }
  absl::StatusOr<std::string> Decode(absl::Span<const int32_t> ids) const override {
    return DecodeAll(*this, ids);
  }
  int32_t vocab_size() const override { return vocab_.size(); }
  std::optional<int32_t> bos_id() const override { return bos_id_; }
  std::optional<int32_t> eos_id() const override { return eos_id_; }
  bool IsControl(int32_t id) const override {
    return id >= 0 && id < vocab_size() && is_control_[id];
  }
  bool IsByte(int32_t id) const override {
    return id >= 0 && id < vocab_size() && decoder_.is_byte[id];
  }
  const std::string& fingerprint() const override { return fingerprint_; }
  const DecodeRules& decode_rules() const override { return decoder_.rules; }

 private:
  absl::Status Load(const JsonRef& json);
  absl::Status LoadAddedTokens();
  absl::Status ApplyConfig(const TokenizerConfig& config);
  absl::Status MarkControl(const TokenizerConfig& config);
  absl::StatusOr<int32_t> Find(const std::string& text, std::string_view key) const;
  absl::Status EncodeText(std::string_view text, bool at_start, WordList* list, WordCache* cache,
                          std::vector<int32_t>* ids) const;

  HfVocab vocab_;
  std::vector<bool> is_control_;  // [vocab_size]
  Normalizer normalizer_;
  AddedTokenMatcher raw_added_;           // looked for in the text as it came
  AddedTokenMatcher normalized_added_;    // looked for behind the normalizer
  std::vector<std::string> token_texts_;  // [vocab_size], for the decoder; empty after loading
  PreTokenizer pre_tokenizer_;
  HfBpe bpe_;
  HfDecoder decoder_;
  std::vector<int32_t> prefix_;  // what goes before a prompt
  std::optional<int32_t> bos_id_;
  std::optional<int32_t> eos_id_;
  std::string fingerprint_;
};

absl::StatusOr<std::unique_ptr<Tokenizer>> HfTokenizer::Create(const JsonRef& json,
                                                               const TokenizerConfig& config,
                                                               std::string fingerprint) {
  auto tokenizer = std::make_unique<HfTokenizer>();
  tokenizer->fingerprint_ = std::move(fingerprint);
  ASSIGN_OR_RETURN(const JsonRef model, json.Require("model"));
  ASSIGN_OR_RETURN(const JsonRef vocab, model.Require("vocab"));
  absl::StatusOr<HfVocab> loaded = HfVocab::FromJson(vocab, json.Find("added_tokens"));
  if (!loaded.ok()) return Prefixed(loaded.status(), "tokenizer.json");
  tokenizer->vocab_ = *std::move(loaded);
  RETURN_IF_ERROR(tokenizer->MarkControl(config));
  if (const absl::Status status = tokenizer->Load(json); !status.ok()) {
    return Prefixed(status, "tokenizer.json");
  }
  RETURN_IF_ERROR(tokenizer->ApplyConfig(config));
  return tokenizer;
}

absl::Status HfTokenizer::MarkControl(const TokenizerConfig& config) {
  is_control_.assign(vocab_.size(), false);
  for (int32_t id = 0; id < vocab_.size(); ++id) is_control_[id] = vocab_.Text(id).empty();
  for (const HfVocab::AddedToken& token : vocab_.added()) {
    if (token.special) is_control_[token.id] = true;
  }
  for (const TokenizerConfig::AddedToken& token : config.added_tokens) {
    const std::optional<int32_t> id = vocab_.Find(token.content);
    if (!id || *id != token.id) {
      return absl::UnimplementedError(
          Cat("tokenizer_config.json: /added_tokens_decoder/", token.id, ": '", token.content,
              "' is not that token of tokenizer.json (adding tokens there is not supported)"));
    }
    if (token.special) is_control_[token.id] = true;
  }
  return absl::OkStatus();
}

absl::Status HfTokenizer::Load(const JsonRef& json) {
  RETURN_IF_ERROR(json.OnlyKeys({"version", "truncation", "padding", "added_tokens", "normalizer",
                                 "pre_tokenizer", "post_processor", "decoder", "model"}));
  if (const auto version = json.Find("version")) {
    ASSIGN_OR_RETURN(const std::string text, version->String());
    if (text != "1.0") return version->Unimplemented(Cat("version '", text, "'"));
  }
  for (const std::string_view key : {"truncation", "padding"}) {
    if (const auto member = json.Find(key)) return member->Unimplemented("anything but null");
  }
  ASSIGN_OR_RETURN(normalizer_, Normalizer::FromJson(json.Find("normalizer")));
  RETURN_IF_ERROR(LoadAddedTokens());
  ASSIGN_OR_RETURN(pre_tokenizer_, PreTokenizer::FromJson(json.Find("pre_tokenizer")));
  ASSIGN_OR_RETURN(const JsonRef model, json.Require("model"));
  ASSIGN_OR_RETURN(bpe_, HfBpe::FromJson(model, &vocab_, pre_tokenizer_.byte_level(), is_control_));
  ASSIGN_OR_RETURN(prefix_, ReadPromptPrefix(json.Find("post_processor"), vocab_));
  ASSIGN_OR_RETURN(decoder_, HfDecoder::FromJson(json.Find("decoder"), token_texts_));
  token_texts_ = {};
  for (int32_t id = 0; id < vocab_.size(); ++id) {
    if (!is_control_[id]) continue;
    decoder_.bytes[id].clear();
    decoder_.first_bytes.erase(id);
    decoder_.is_byte[id] = false;
  }
  return absl::OkStatus();
}

absl::Status HfTokenizer::LoadAddedTokens() {
  for (int32_t id = 0; id < vocab_.size(); ++id) token_texts_.emplace_back(vocab_.Text(id));
  std::vector<AddedTokenMatcher::Token> raw, normalized;
  for (const HfVocab::AddedToken& added : vocab_.added()) {
    AddedTokenMatcher::Token token;
    token.id = added.id;
    token.pattern = std::string(vocab_.Text(added.id));
    token.special = is_control_[added.id];
    token.lstrip = added.lstrip;
    token.rstrip = added.rstrip;
    token.single_word = added.single_word;
    if (added.normalized) {
      RETURN_IF_ERROR(normalizer_.Apply(&token.pattern));
      token_texts_[added.id] = token.pattern;  // what the decoder undoes
      normalized.push_back(std::move(token));
    } else {
      raw.push_back(std::move(token));
    }
  }
  raw_added_ = AddedTokenMatcher(std::move(raw));
  normalized_added_ = AddedTokenMatcher(std::move(normalized));
  return absl::OkStatus();
}

absl::StatusOr<int32_t> HfTokenizer::Find(const std::string& text, std::string_view key) const {
  if (const std::optional<int32_t> id = vocab_.Find(text)) return *id;
  return absl::InvalidArgumentError(
      Cat("tokenizer_config.json: /", key, ": '", text, "' is not in the vocabulary"));
}

absl::Status HfTokenizer::ApplyConfig(const TokenizerConfig& config) {
  if (!config.present) {
    if (prefix_.size() == 1) bos_id_ = prefix_[0];
    return absl::OkStatus();
  }
  if (config.bos_token) {
    ASSIGN_OR_RETURN(bos_id_, Find(*config.bos_token, "bos_token"));
  }
  if (config.eos_token) {
    ASSIGN_OR_RETURN(eos_id_, Find(*config.eos_token, "eos_token"));
  }
  if (config.add_bos_token.has_value()) {
    prefix_.clear();
    if (*config.add_bos_token && bos_id_) prefix_.push_back(*bos_id_);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> HfTokenizer::Encode(std::string_view text,
                                                         const EncodeOptions& options) const {
  RETURN_IF_ERROR(CheckText(text));
  std::vector<int32_t> ids;
  if (options.add_bos) ids = prefix_;
  WordList list;
  WordCache cache;
  for (const AddedTokenMatcher::Part& part : raw_added_.Split(text, options.parse_special)) {
    if (part.id != AddedTokenMatcher::kText) {
      ids.push_back(part.id);
      continue;
    }
    const bool at_start = part.text.data() == text.data();
    std::string& normalized = list.texts.emplace_back(part.text);
    RETURN_IF_ERROR(normalizer_.Apply(&normalized));
    const std::string_view view = normalized;
    for (const AddedTokenMatcher::Part& piece :
         normalized_added_.Split(view, options.parse_special)) {
      if (piece.id != AddedTokenMatcher::kText) {
        ids.push_back(piece.id);
        continue;
      }
      RETURN_IF_ERROR(EncodeText(piece.text, at_start && piece.text.data() == view.data(), &list,
                                 &cache, &ids));
    }
  }
  return ids;
}

absl::Status HfTokenizer::EncodeText(std::string_view text, bool at_start, WordList* list,
                                     WordCache* cache, std::vector<int32_t>* ids) const {
  list->words = {{text, at_start}};
  RETURN_IF_ERROR(pre_tokenizer_.Apply(list));
  for (const Word& word : list->words) {
    if (word.text.size() > kMaxCachedWordBytes) {
      bpe_.Encode(word.text, ids);
      continue;
    }
    const auto [it, is_new] = cache->try_emplace(word.text);
    auto& [first, count] = it->second;
    if (is_new) {
      first = ids->size();
      bpe_.Encode(word.text, ids);
      count = ids->size() - first;
    } else {
      for (size_t i = 0; i < count; ++i) ids->push_back((*ids)[first + i]);
    }
  }
  return absl::OkStatus();
}

}  // namespace

bool HasSupportedModel(const nlohmann::json& json) {
  const std::optional<JsonRef> model = JsonRef(&json, "").Find("model");
  if (!model) return false;
  // Old files leave the type out.
  if (!model->Find("type")) return model->Find("merges").has_value();
  const absl::StatusOr<std::string> type = model->String("type");
  return type.ok() && *type == "BPE";
}

absl::StatusOr<std::unique_ptr<Tokenizer>> HfFromJson(const nlohmann::json& json,
                                                      const TokenizerConfig& config,
                                                      std::string fingerprint) {
  const JsonRef root(&json, "");
  if (!HasSupportedModel(json)) {
    absl::StatusOr<JsonRef> model = root.Require("model");
    if (!model.ok()) return Prefixed(model.status(), "tokenizer.json");
    const JsonRef where = model->Find("type").value_or(*model);
    return Prefixed(where.Unimplemented("a model other than BPE"), "tokenizer.json");
  }
  return HfTokenizer::Create(root, config, std::move(fingerprint));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> HfFromJson(std::string_view text) {
  absl::StatusOr<nlohmann::json> json = ParseJson(text);
  if (!json.ok()) return Prefixed(json.status(), "tokenizer.json");
  return HfFromJson(*json, TokenizerConfig(), HexDigest(Sha256(text)));
}

}  // namespace reprise::models
