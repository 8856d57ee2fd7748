// The SentencePiece model file (a serialized protocol buffer) as plain data.
//
// The file is read by hand and the inference is our own: the system's libsentencepiece exports a
// private copy of protobuf 3.14, which cannot live in one process with the protobuf of gRPC.
#ifndef REPRISE_MODELS_TOKENIZER_SENTENCEPIECE_MODEL_H_
#define REPRISE_MODELS_TOKENIZER_SENTENCEPIECE_MODEL_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace reprise::models {

struct SentencePieceModel {
  // The numbers are those of sentencepiece_model.proto.
  enum class Type : uint8_t {
    kNormal = 1,
    kUnknown = 2,
    kControl = 3,
    kUserDefined = 4,
    kUnused = 5,
    kByte = 6,
  };
  struct Piece {
    std::string text;  // valid UTF-8, not empty, no NUL
    float score = 0;   // finite
    Type type = Type::kNormal;
    uint8_t byte = 0;  // kByte only
  };
  enum class Algorithm : uint8_t { kUnigram = 1, kBpe = 2 };

  std::vector<Piece> pieces;  // [vocab_size]
  int32_t unk_id = 0;
  Algorithm algorithm = Algorithm::kUnigram;
  bool byte_fallback = false;
  int32_t byte_ids[256] = {};  // with byte_fallback: the piece of each byte
  std::string bos_piece = "<s>";
  std::string eos_piece = "</s>";
  std::string unk_surface = " \xE2\x81\x87 ";

  std::string charsmap;  // see sentencepiece_normalizer.h
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
};

// INVALID_ARGUMENT or UNIMPLEMENTED with the field's name; `bytes` may be hostile.
absl::StatusOr<SentencePieceModel> ParseSentencePieceModel(std::string_view bytes);

}  // namespace reprise::models

#endif  // REPRISE_MODELS_TOKENIZER_SENTENCEPIECE_MODEL_H_
