// The bundled model with one sequence.
#ifndef REPRISE_TESTS_MODELS_TESTING_BUNDLED_MODEL_H_
#define REPRISE_TESTS_MODELS_TESTING_BUNDLED_MODEL_H_

#include <memory>
#include <string>
#include <vector>

#include "models/load_model.h"
#include "tests/models/testing/model_runner.h"

namespace reprise::models::testing {

class BundledModel {
 public:
  explicit BundledModel(kernels::Device device, WeightFormat format = WeightFormat::kCheckpoint);

  HybridModel& model() { return *loaded_.model; }
  std::vector<int32_t> Encode(const std::string& text) {
    return loaded_.tokenizer->Encode(text, {}).value();
  }
  // The sequence goes on with `tokens`: logits after the last of them, or after each.
  Logits Feed(const std::vector<int32_t>& tokens, bool all_rows = false);

 private:
  std::unique_ptr<kernels::ThreadPool> pool_;
  std::unique_ptr<kernels::DeviceQueue> queue_;
  kernels::Context context_;
  LoadedModel loaded_;
  std::unique_ptr<StateSlots> slots_;
  SlotHandle slot_;
  int64_t position_ = 0;
};

// |actual - expected| / |expected|, over all elements.
double RelativeError(const Logits& actual, const Logits& expected);
// The index of the largest of `count` logits.
int32_t Best(const float* logits, int count);

}  // namespace reprise::models::testing

#endif  // REPRISE_TESTS_MODELS_TESTING_BUNDLED_MODEL_H_
