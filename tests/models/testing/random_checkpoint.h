// Checkpoint folders with small random models, made by walking the weight table.
#ifndef REPRISE_TESTS_MODELS_TESTING_RANDOM_CHECKPOINT_H_
#define REPRISE_TESTS_MODELS_TESTING_RANDOM_CHECKPOINT_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/models/testing/safetensors_writer.h"

namespace reprise::models::testing {

// A folder that goes with its contents when the object goes.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  void Write(const std::string& name, const std::string& bytes) const;

 private:
  std::string path_;
};

// A config.json of three layers (recurrent, recurrent, attention) whose sizes are multiples of
// nothing; `changes` are laid over it.
nlohmann::json SmallConfig(const nlohmann::json& changes = nlohmann::json::object());

// Tensors that the config asks for, with values that keep gates and logits busy. Equal for equal
// seeds. `dtype`: "F32", "BF16", "F16", or "mixed" for all three in turns.
std::vector<TensorToWrite> RandomTensors(const nlohmann::json& config, uint64_t seed,
                                         const std::string& dtype = "F32");

// config.json and model.safetensors.
void WriteCheckpoint(const TempDir& folder, const nlohmann::json& config,
                     const std::vector<TensorToWrite>& tensors);

std::vector<int32_t> RandomTokens(int count, int vocab, uint64_t seed);

}  // namespace reprise::models::testing

#endif  // REPRISE_TESTS_MODELS_TESTING_RANDOM_CHECKPOINT_H_
