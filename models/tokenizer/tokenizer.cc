#include "models/tokenizer/tokenizer.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "base/hash.h"
#include "base/mapped_file.h"
#include "base/status_macros.h"
#include "models/tokenizer/hf_json.h"
#include "models/tokenizer/hf_tokenizer.h"
#include "models/tokenizer/sentencepiece_tokenizer.h"
#include "models/tokenizer/text.h"
#include "models/tokenizer/tokenizer_config.h"

namespace reprise::models {
namespace {

// nullopt if there is no such file.
absl::StatusOr<std::optional<MappedFile>> OpenIfPresent(const std::string& path) {
  absl::StatusOr<MappedFile> file = MappedFile::Open(path);
  if (absl::IsNotFound(file.status())) return std::nullopt;
  if (!file.ok()) return file.status();
  return std::make_optional(*std::move(file));
}

// One file: its SHA-256. With a config: the SHA-256 over the two digests in hex.
std::string Fingerprint(const MappedFile& file, const std::optional<MappedFile>& config) {
  const std::string digest = HexDigest(Sha256(file.bytes()));
  if (!config) return digest;
  return HexDigest(Sha256(digest + HexDigest(Sha256(config->bytes()))));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& directory) {
  ASSIGN_OR_RETURN(const std::optional<MappedFile> json_file,
                   OpenIfPresent(directory + "/tokenizer.json"));
  ASSIGN_OR_RETURN(const std::optional<MappedFile> model_file,
                   OpenIfPresent(directory + "/tokenizer.model"));
  ASSIGN_OR_RETURN(const std::optional<MappedFile> config_file,
                   OpenIfPresent(directory + "/tokenizer_config.json"));
  TokenizerConfig config;
  if (config_file) {
    absl::StatusOr<TokenizerConfig> parsed = ParseTokenizerConfig(config_file->bytes());
    if (!parsed.ok()) return Prefixed(parsed.status(), config_file->path());
    config = *std::move(parsed);
  }
  if (json_file) {
    absl::StatusOr<nlohmann::json> json = ParseJson(json_file->bytes());
    if (!json.ok()) return Prefixed(json.status(), json_file->path());
    if (HasSupportedModel(*json) || !model_file) {
      absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer =
          HfFromJson(*json, config, Fingerprint(*json_file, config_file));
      if (!tokenizer.ok()) return Prefixed(tokenizer.status(), directory);
      return tokenizer;
    }
  }
  if (!model_file) {
    return absl::NotFoundError(Cat(directory, ": neither tokenizer.json nor tokenizer.model"));
  }
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer =
      SentencePieceFromBytes(model_file->bytes(), config, Fingerprint(*model_file, config_file));
  if (!tokenizer.ok()) return Prefixed(tokenizer.status(), directory + "/tokenizer.model");
  return tokenizer;
}

}  // namespace

const DecodeRules& Tokenizer::decode_rules() const {
  static const DecodeRules& rules = *new DecodeRules();
  return rules;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& directory) {
  return Load(directory);
}

}  // namespace reprise::models
