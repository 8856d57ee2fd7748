// In which form a loaded model keeps its weights.
#ifndef REPRISE_MODELS_WEIGHT_FORMAT_H_
#define REPRISE_MODELS_WEIGHT_FORMAT_H_

#include <string_view>

namespace reprise::models {

// kCheckpoint: as the checkpoint has them, on CUDA as bf16. kFp8: linear layers within the layers
// are rounded to e4m3 with a scale per output (MayBeFp8 in models/weight_table.h says which).
// Another model in every respect: its states, snapshots and prefixes are not those of the other.
enum class WeightFormat { kCheckpoint, kFp8 };

// `name`: "checkpoint" or "fp8", as --weight-format has it.
inline WeightFormat WeightFormatOf(std::string_view name) {
  return name == "fp8" ? WeightFormat::kFp8 : WeightFormat::kCheckpoint;
}

}  // namespace reprise::models

#endif  // REPRISE_MODELS_WEIGHT_FORMAT_H_
