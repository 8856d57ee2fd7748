// How much memory a model will take, known before it is loaded.
#ifndef REPRISE_MODELS_MODEL_PLAN_H_
#define REPRISE_MODELS_MODEL_PLAN_H_

#include <cstddef>

namespace reprise::models {

// Bytes on the model's device.
struct ModelPlan {
  size_t weight_bytes = 0;  // ModelInfo::weight_bytes at most, and within a few percent
  size_t step_bytes = 0;    // values of one step of max_rows, without its logits
  size_t state_bytes = 0;   // of one slot
  int vocab_size = 0;       // of a row of logits, which are float32
};

}  // namespace reprise::models

#endif  // REPRISE_MODELS_MODEL_PLAN_H_
