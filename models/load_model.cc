#include "models/load_model.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/mapped_file.h"
#include "base/status_macros.h"
#include "models/griffin.h"
#include "models/json_reader.h"
#include "models/recurrent_gemma_config.h"
#include "models/safetensors.h"
#include "models/weights.h"

namespace reprise::models {
namespace {

constexpr int kMaxRows = 65536;

absl::StatusOr<std::unique_ptr<HybridModel>> LoadRecurrentGemma(const std::string& directory,
                                                                const std::string& config_path,
                                                                std::string_view config_bytes,
                                                                const nlohmann::json& json,
                                                                const LoadOptions& options) {
  const absl::StatusOr<RecurrentGemmaConfig> config = RecurrentGemmaConfig::FromJson(json);
  if (!config.ok()) return Prefixed(config.status(), config_path);
  ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::Open(directory));
  ASSIGN_OR_RETURN(const Weights weights, Weights::Resolve(checkpoint, *config));
  ModelInfo info;
  info.architecture = "recurrent_gemma";
  info.unused_tensors = weights.unused();
  ASSIGN_OR_RETURN(info.weights_fingerprint, weights.Fingerprint(config_bytes, options.context));
  ASSIGN_OR_RETURN(
      std::unique_ptr<HybridModel> model,
      Griffin::Create(*config, weights, std::move(info), options.max_rows, options.context));
  return model;
}

struct Architecture {
  const char* model_type;
  decltype(&LoadRecurrentGemma) load;
};
constexpr Architecture kArchitectures[] = {
    {"recurrent_gemma", &LoadRecurrentGemma},
};

absl::Status Unsupported(const std::string& path, std::string_view model_type) {
  std::string supported;
  for (const Architecture& row : kArchitectures) {
    absl::StrAppend(&supported, supported.empty() ? "" : ", ", row.model_type);
  }
  return absl::UnimplementedError(absl::StrCat(path, ": model_type ",
                                               Shown(nlohmann::json(model_type)),
                                               " is not supported (supported: ", supported, ")"));
}

absl::StatusOr<std::unique_ptr<HybridModel>> LoadWeights(const std::string& directory,
                                                         const LoadOptions& options) {
  const std::string path = absl::StrCat(directory, "/config.json");
  ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
  const absl::StatusOr<nlohmann::json> json = ParseJsonObject(file.bytes());
  if (!json.ok()) return Prefixed(json.status(), path);
  const auto model_type = ReadString(*json, "model_type");
  if (!model_type.ok()) return Prefixed(model_type.status(), path);
  if (!model_type->has_value()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": model_type is missing"));
  }
  for (const Architecture& row : kArchitectures) {
    if (**model_type == row.model_type) {
      return row.load(directory, path, file.bytes(), *json, options);
    }
  }
  return Unsupported(path, **model_type);
}

}  // namespace

absl::StatusOr<LoadedModel> LoadModel(const std::string& directory, const LoadOptions& options) {
  if (options.max_rows < 1 || options.max_rows > kMaxRows) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_rows: expected 1 to ", kMaxRows, ", found ", options.max_rows));
  }
  if (options.context.pool == nullptr) {
    return absl::InvalidArgumentError("context.pool: expected a thread pool, found null");
  }
  std::error_code error;
  if (!std::filesystem::is_directory(directory, error)) {
    return absl::NotFoundError(absl::StrCat(directory, ": no such folder"));
  }
  LoadedModel loaded;
  ASSIGN_OR_RETURN(loaded.model, LoadWeights(directory, options));
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = LoadTokenizer(directory);
  if (tokenizer.ok()) {
    loaded.tokenizer = *std::move(tokenizer);
  } else if (!absl::IsNotFound(tokenizer.status())) {
    return tokenizer.status();
  }
  return loaded;
}

}  // namespace reprise::models
