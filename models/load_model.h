// The way from a checkpoint folder to a model with its tokenizer.
#ifndef REPRISE_MODELS_LOAD_MODEL_H_
#define REPRISE_MODELS_LOAD_MODEL_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/kernels.h"
#include "models/hybrid_model.h"
#include "models/model_plan.h"
#include "models/tokenizer/tokenizer.h"
#include "models/weight_format.h"

namespace reprise::models {

struct LoadOptions {
  kernels::Context context;  // with a pool on any device; borrowed, must outlive the model
  int max_rows = 512;        // rows of one Forward, 1..65536
  WeightFormat weight_format = WeightFormat::kCheckpoint;
};

struct LoadedModel {
  std::unique_ptr<HybridModel> model;
  std::unique_ptr<Tokenizer> tokenizer;  // null when the folder has none
};

// Reads `directory`. NOT_FOUND, INVALID_ARGUMENT or DATA_LOSS name the file, the key or the tensor;
// UNIMPLEMENTED an architecture or an option that is not supported, with the supported ones.
absl::StatusOr<LoadedModel> LoadModel(const std::string& directory, const LoadOptions& options);

// What LoadModel would take, from the config and the headers of the files. Errors as LoadModel's,
// as far as these show them. context.pool is not used.
absl::StatusOr<ModelPlan> PlanModel(const std::string& directory, const LoadOptions& options);

}  // namespace reprise::models

#endif  // REPRISE_MODELS_LOAD_MODEL_H_
