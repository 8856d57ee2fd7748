#include "models/tokenizer/sentencepiece_tokenizer.h"

#include <utility>

#include "base/status_macros.h"
#include "models/tokenizer/detokenizer.h"
#include "models/tokenizer/sentencepiece_model.h"
#include "models/tokenizer/sentencepiece_normalizer.h"
#include "models/tokenizer/sentencepiece_segmenter.h"
#include "models/tokenizer/text.h"
#include "models/tokenizer/text_limits.h"

namespace reprise::models {
namespace {

using Type = SentencePieceModel::Type;

class SentencePieceTokenizer : public Tokenizer {
 public:
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(SentencePieceModel model,
                                                           const TokenizerConfig& config,
                                                           std::string fingerprint);

  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                              const EncodeOptions& options) const override;
  absl::StatusOr<std::string> TokenBytes(int32_t id) const override;
  absl::StatusOr<std::string> FirstTokenBytes(int32_t id) const override;
  absl::StatusOr<std::string> Decode(absl::Span<const int32_t> ids) const override {
    return DecodeAll(*this, ids);
  }
  int32_t vocab_size() const override { return static_cast<int32_t>(model_.pieces.size()); }
  std::optional<int32_t> bos_id() const override { return bos_id_; }
  std::optional<int32_t> eos_id() const override { return eos_id_; }
  bool IsControl(int32_t id) const override { return Has(id, Type::kControl); }
  bool IsByte(int32_t id) const override { return Has(id, Type::kByte); }
  const std::string& fingerprint() const override { return fingerprint_; }
  const DecodeRules& decode_rules() const override { return rules_; }

 private:
  bool Has(int32_t id, Type type) const {
    return id >= 0 && id < vocab_size() && model_.pieces[id].type == type;
  }
  absl::Status ApplyConfig(const TokenizerConfig& config);
  absl::StatusOr<int32_t> Find(std::string_view text, std::string_view key) const;
  void EncodePlain(std::string_view text, bool at_start, std::vector<int32_t>* ids) const;

  SentencePieceModel model_;
  SentencePieceNormalizer normalizer_;
  std::unique_ptr<SentencePieceSegmenter> segmenter_;
  ByteTrie control_;  // the texts of control tokens
  DecodeRules rules_;
  std::optional<int32_t> bos_id_;
  std::optional<int32_t> eos_id_;
  bool adds_bos_ = false;
  std::string fingerprint_;
};

absl::StatusOr<int32_t> SentencePieceTokenizer::Find(std::string_view text,
                                                     std::string_view key) const {
  for (size_t i = 0; i < model_.pieces.size(); ++i) {
    if (model_.pieces[i].text == text) return static_cast<int32_t>(i);
  }
  return absl::InvalidArgumentError(
      Cat("tokenizer_config.json: /", key, ": '", text, "' is not in the vocabulary"));
}

absl::Status SentencePieceTokenizer::ApplyConfig(const TokenizerConfig& config) {
  for (const TokenizerConfig::AddedToken& token : config.added_tokens) {
    const std::string key = Cat("added_tokens_decoder/", token.id);
    if (token.id >= vocab_size() || model_.pieces[token.id].text != token.content) {
      return absl::UnimplementedError(
          Cat("tokenizer_config.json: /", key, ": '", token.content,
              "' is not that piece of tokenizer.model (tokens added to a SentencePiece "
              "model are not supported)"));
    }
    Type& type = model_.pieces[token.id].type;
    if (token.special && type == Type::kUserDefined) type = Type::kControl;
  }
  // The model's own names; a piece of that name counts only if it is a control token.
  for (size_t i = 0; i < model_.pieces.size(); ++i) {
    if (model_.pieces[i].type != Type::kControl) continue;
    if (model_.pieces[i].text == model_.bos_piece) bos_id_ = static_cast<int32_t>(i);
    if (model_.pieces[i].text == model_.eos_piece) eos_id_ = static_cast<int32_t>(i);
  }
  if (config.present) {
    bos_id_.reset();
    eos_id_.reset();
    if (config.bos_token) {
      ASSIGN_OR_RETURN(bos_id_, Find(*config.bos_token, "bos_token"));
    }
    if (config.eos_token) {
      ASSIGN_OR_RETURN(eos_id_, Find(*config.eos_token, "eos_token"));
    }
  }
  // The classes behind these files put a BOS before every text unless told otherwise.
  adds_bos_ = bos_id_.has_value() && config.add_bos_token.value_or(true);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Tokenizer>> SentencePieceTokenizer::Create(
    SentencePieceModel model, const TokenizerConfig& config, std::string fingerprint) {
  auto tokenizer = std::make_unique<SentencePieceTokenizer>();
  tokenizer->model_ = std::move(model);
  tokenizer->fingerprint_ = std::move(fingerprint);
  RETURN_IF_ERROR(tokenizer->ApplyConfig(config));
  const SentencePieceModel& own = tokenizer->model_;
  ASSIGN_OR_RETURN(tokenizer->normalizer_, SentencePieceNormalizer::Create(own));
  tokenizer->segmenter_ = own.algorithm == SentencePieceModel::Algorithm::kBpe
                              ? MakeBpeSegmenter(own, tokenizer->normalizer_.user_defined())
                              : MakeUnigramSegmenter(own);
  std::vector<std::pair<std::string_view, int32_t>> control;
  for (size_t i = 0; i < own.pieces.size(); ++i) {
    if (own.pieces[i].type == Type::kControl) {
      control.emplace_back(own.pieces[i].text, static_cast<int32_t>(i));
    }
  }
  tokenizer->control_ = ByteTrie(std::move(control));
  tokenizer->rules_.bytes = DecodeRules::Bytes::kRunPerByte;
  tokenizer->rules_.control_ends_run = true;
  if (own.remove_extra_whitespaces) {
    tokenizer->rules_.first = DecodeRules::First::kUntilText;
  } else if (own.add_dummy_prefix) {
    tokenizer->rules_.first = DecodeRules::First::kUntilStripped;
  }
  return tokenizer;
}

absl::StatusOr<std::vector<int32_t>> SentencePieceTokenizer::Encode(
    std::string_view text, const EncodeOptions& options) const {
  RETURN_IF_ERROR(CheckText(text));
  std::vector<int32_t> ids;
  if (options.add_bos && adds_bos_) ids.push_back(*bos_id_);
  if (!options.parse_special || control_.empty()) {
    EncodePlain(text, true, &ids);
    return ids;
  }
  size_t start = 0;
  for (size_t i = 0; i < text.size();) {
    const ByteTrie::Match match = control_.Longest(text.substr(i));
    if (match.length == 0) {
      ++i;
      continue;
    }
    EncodePlain(text.substr(start, i - start), start == 0, &ids);
    ids.push_back(match.value);
    start = i += match.length;
  }
  EncodePlain(text.substr(start), start == 0, &ids);
  return ids;
}

void SentencePieceTokenizer::EncodePlain(std::string_view text, bool at_start,
                                         std::vector<int32_t>* ids) const {
  if (text.empty()) return;
  const std::string normalized = normalizer_.Normalize(text, at_start);
  bool after_unknown = false;
  for (const PieceSpan& span : segmenter_->Segment(normalized)) {
    const bool unknown = span.id == model_.unk_id;
    if (unknown && model_.byte_fallback) {
      for (const char c : span.text) ids->push_back(model_.byte_ids[static_cast<uint8_t>(c)]);
    } else if (!(unknown && after_unknown)) {  // neighbouring unknown characters are one token
      ids->push_back(span.id);
    }
    after_unknown = unknown;
  }
}

absl::StatusOr<std::string> SentencePieceTokenizer::TokenBytes(int32_t id) const {
  RETURN_IF_ERROR(CheckTokenId(id, vocab_size()));
  const SentencePieceModel::Piece& piece = model_.pieces[id];
  switch (piece.type) {
    case Type::kControl:
      return std::string();
    case Type::kUnknown:
      return model_.unk_surface;
    case Type::kByte:
      return std::string(1, static_cast<char>(piece.byte));
    case Type::kNormal:
    case Type::kUserDefined:
    case Type::kUnused:
      break;
  }
  return ReplaceAll(piece.text, kSpaceSymbol, " ");
}

absl::StatusOr<std::string> SentencePieceTokenizer::FirstTokenBytes(int32_t id) const {
  ASSIGN_OR_RETURN(std::string bytes, TokenBytes(id));
  const Type type = model_.pieces[id].type;
  const bool is_text = type != Type::kUnknown && type != Type::kByte && type != Type::kControl;
  if (is_text && model_.pieces[id].text.compare(0, kSpaceSymbol.size(), kSpaceSymbol) == 0) {
    bytes.erase(0, 1);
  }
  return bytes;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> SentencePieceFromBytes(std::string_view model,
                                                                  const TokenizerConfig& config,
                                                                  std::string fingerprint) {
  ASSIGN_OR_RETURN(SentencePieceModel parsed, ParseSentencePieceModel(model));
  return SentencePieceTokenizer::Create(std::move(parsed), config, std::move(fingerprint));
}

}  // namespace reprise::models
