// SentencePiece's two algorithms that cut normalized text into pieces.
#ifndef REPRISE_MODELS_TOKENIZER_SENTENCEPIECE_SEGMENTER_H_
#define REPRISE_MODELS_TOKENIZER_SENTENCEPIECE_SEGMENTER_H_

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "models/tokenizer/byte_trie.h"
#include "models/tokenizer/sentencepiece_model.h"

namespace reprise::models {

struct PieceSpan {
  std::string_view text;  // part of the normalized text
  int32_t id;             // the unknown piece where no other fits
};

class SentencePieceSegmenter {
 public:
  virtual ~SentencePieceSegmenter() = default;
  // `text` must be valid UTF-8.
  virtual std::vector<PieceSpan> Segment(std::string_view text) const = 0;
};

// Both keep references to `model` and `user_defined`, which must outlive them.
std::unique_ptr<SentencePieceSegmenter> MakeBpeSegmenter(const SentencePieceModel& model,
                                                         const ByteTrie& user_defined);
std::unique_ptr<SentencePieceSegmenter> MakeUnigramSegmenter(const SentencePieceModel& model);

}  // namespace reprise::models

#endif  // REPRISE_MODELS_TOKENIZER_SENTENCEPIECE_SEGMENTER_H_
