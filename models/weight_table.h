// The weights of RecurrentGemma as a table: our name, the checkpoint's name, the shape in terms of
// the config. The loader follows it, and a test walks it without a checkpoint.
#ifndef REPRISE_MODELS_WEIGHT_TABLE_H_
#define REPRISE_MODELS_WEIGHT_TABLE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "models/recurrent_gemma_config.h"

namespace reprise::models {

enum class WeightId {
  kEmbedding,
  kLmHead,
  kFinalNorm,
  kTemporalNorm,
  kChannelNorm,
  kMlpGate,
  kMlpGateBias,
  kMlpUp,
  kMlpUpBias,
  kMlpDown,
  kMlpDownBias,
  kLinearX,
  kLinearXBias,
  kLinearY,
  kLinearYBias,
  kLinearOut,
  kLinearOutBias,
  kConv,
  kConvBias,
  kRecurrentParam,
  kInputGate,
  kInputGateBias,
  kRecurrentGate,
  kRecurrentGateBias,
  kQuery,
  kQueryBias,
  kKey,
  kKeyBias,
  kValue,
  kValueBias,
  kAttentionOut,
  kAttentionOutBias,
};

enum class Dim {
  kOne,
  kVocab,
  kHidden,
  kMlp,
  kHeads,
  kLru,
  kLruBlock,
  kConvWidth,
  kQueries,
  kKeys
};
int64_t DimSize(Dim dim, const RecurrentGemmaConfig& config);

// Where a weight occurs: which layers hold it, and under which option.
enum class WeightPlace { kModel, kUntied, kEveryLayer, kRecurrent, kAttention, kAttentionBias };

struct WeightSpec {
  WeightId id;
  WeightPlace place;
  const char* name;  // in the checkpoint, under "layers.N." for the weights of a layer
  std::vector<Dim> shape;
};

// All weights, in the order of WeightId.
absl::Span<const WeightSpec> WeightTable();
const WeightSpec& SpecOf(WeightId id);

// Whether the checkpoint must hold the weight in this layer (-1 for weights of the whole model).
bool IsNeeded(const WeightSpec& spec, const RecurrentGemmaConfig& config, int layer);

// Whether it is a factor of products, which are packed; the others are kept as float32, and the
// embedding as it is.
bool IsMatrix(WeightId id);

// Whether WeightFormat::kFp8 keeps it as e4m3: the large matrices of a layer, which read normed or
// bounded values and whose results are added to a residual. Not the head: an error there is the
// logits' own. Not RG-LRU's gates: 1% of the bytes, and a gate is an exponent that acts again with
// every token.
bool MayBeFp8(WeightId id);

// Names to look for, best first: as RecurrentGemmaForCausalLM saves them, then as the bare model
// does (without "model.").
std::vector<std::string> CheckpointNames(const WeightSpec& spec, int layer);

std::vector<int64_t> ShapeOf(const WeightSpec& spec, const RecurrentGemmaConfig& config);

}  // namespace reprise::models

#endif  // REPRISE_MODELS_WEIGHT_TABLE_H_
