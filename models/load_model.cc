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

// config.json, read and mapped.
struct ConfigFile {
  std::string directory, path;
  MappedFile file;
  nlohmann::json json;
};

// A checkpoint whose tensors are found and checked, with no byte of their data read.
struct RecurrentGemma {
  RecurrentGemmaConfig config;
  std::unique_ptr<Checkpoint> checkpoint;  // `weights` points into it
  Weights weights;

  static absl::StatusOr<RecurrentGemma> Open(const ConfigFile& file, WeightFormat format) {
    const absl::StatusOr<RecurrentGemmaConfig> config = RecurrentGemmaConfig::FromJson(file.json);
    if (!config.ok()) return Prefixed(config.status(), file.path);
    RecurrentGemma opened;
    opened.config = *config;
    ASSIGN_OR_RETURN(Checkpoint checkpoint, Checkpoint::Open(file.directory));
    opened.checkpoint = std::make_unique<Checkpoint>(std::move(checkpoint));
    ASSIGN_OR_RETURN(opened.weights, Weights::Resolve(*opened.checkpoint, opened.config, format));
    return opened;
  }
};

absl::StatusOr<std::unique_ptr<HybridModel>> LoadRecurrentGemma(const ConfigFile& file,
                                                                const LoadOptions& options) {
  ASSIGN_OR_RETURN(const RecurrentGemma opened, RecurrentGemma::Open(file, options.weight_format));
  ModelInfo info;
  info.architecture = "recurrent_gemma";
  info.unused_tensors = opened.weights.unused();
  ASSIGN_OR_RETURN(info.weights_fingerprint,
                   opened.weights.Fingerprint(file.file.bytes(), options.context));
  ASSIGN_OR_RETURN(std::unique_ptr<HybridModel> model,
                   Griffin::Create(opened.config, opened.weights, std::move(info), options.max_rows,
                                   options.context));
  return model;
}

absl::StatusOr<ModelPlan> PlanRecurrentGemma(const ConfigFile& file, const LoadOptions& options) {
  ASSIGN_OR_RETURN(const RecurrentGemma opened, RecurrentGemma::Open(file, options.weight_format));
  return Griffin::Plan(opened.config, opened.weights, options.max_rows, options.context.device);
}

struct Architecture {
  const char* model_type;
  decltype(&LoadRecurrentGemma) load;
  decltype(&PlanRecurrentGemma) plan;
};
constexpr Architecture kArchitectures[] = {
    {"recurrent_gemma", &LoadRecurrentGemma, &PlanRecurrentGemma},
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

absl::StatusOr<ConfigFile> OpenConfig(const std::string& directory) {
  std::error_code error;
  if (!std::filesystem::is_directory(directory, error)) {
    return absl::NotFoundError(absl::StrCat(directory, ": no such folder"));
  }
  ConfigFile config;
  config.directory = directory;
  config.path = absl::StrCat(directory, "/config.json");
  ASSIGN_OR_RETURN(config.file, MappedFile::Open(config.path));
  absl::StatusOr<nlohmann::json> json = ParseJsonObject(config.file.bytes());
  if (!json.ok()) return Prefixed(json.status(), config.path);
  config.json = *std::move(json);
  return config;
}

absl::StatusOr<const Architecture*> ArchitectureOf(const ConfigFile& config) {
  const auto model_type = ReadString(config.json, "model_type");
  if (!model_type.ok()) return Prefixed(model_type.status(), config.path);
  if (!model_type->has_value()) {
    return absl::InvalidArgumentError(absl::StrCat(config.path, ": model_type is missing"));
  }
  for (const Architecture& row : kArchitectures) {
    if (**model_type == row.model_type) return &row;
  }
  return Unsupported(config.path, **model_type);
}

absl::Status CheckMaxRows(int max_rows) {
  if (max_rows >= 1 && max_rows <= kMaxRows) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("max_rows: expected 1 to ", kMaxRows, ", found ", max_rows));
}

}  // namespace

absl::StatusOr<LoadedModel> LoadModel(const std::string& directory, const LoadOptions& options) {
  RETURN_IF_ERROR(CheckMaxRows(options.max_rows));
  if (options.context.pool == nullptr) {
    return absl::InvalidArgumentError("context.pool: expected a thread pool, found null");
  }
  ASSIGN_OR_RETURN(const ConfigFile config, OpenConfig(directory));
  ASSIGN_OR_RETURN(const Architecture* const architecture, ArchitectureOf(config));
  LoadedModel loaded;
  ASSIGN_OR_RETURN(loaded.model, architecture->load(config, options));
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = LoadTokenizer(directory);
  if (tokenizer.ok()) {
    loaded.tokenizer = *std::move(tokenizer);
  } else if (!absl::IsNotFound(tokenizer.status())) {
    return tokenizer.status();
  }
  return loaded;
}

absl::StatusOr<ModelPlan> PlanModel(const std::string& directory, const LoadOptions& options) {
  RETURN_IF_ERROR(CheckMaxRows(options.max_rows));
  ASSIGN_OR_RETURN(const ConfigFile config, OpenConfig(directory));
  ASSIGN_OR_RETURN(const Architecture* const architecture, ArchitectureOf(config));
  return architecture->plan(config, options);
}

}  // namespace reprise::models
