#include "models/tokenizer/sentencepiece_model.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "models/tokenizer/text.h"
#include "models/tokenizer/utf8.h"

namespace reprise::models {
namespace {

using Piece = SentencePieceModel::Piece;
using Type = SentencePieceModel::Type;

constexpr size_t kMaxPieces = 1 << 21;
// Scores are log probabilities or negated ranks; with this bound no path through a text of
// permitted length overflows a float.
constexpr float kMaxScore = 1e9f;

absl::Status Malformed(std::string_view what) {
  return absl::InvalidArgumentError(Cat("SentencePiece model: ", what));
}

// One field after the other of a serialized message.
class FieldReader {
 public:
  explicit FieldReader(std::string_view bytes) : bytes_(bytes) {}

  struct Field {
    uint32_t number = 0;
    uint32_t wire_type = 0;
    uint64_t varint = 0;       // wire types 0, 1, 5
    std::string_view payload;  // wire type 2
  };
  bool done() const { return bytes_.empty(); }

  absl::StatusOr<Field> Next() {
    Field field;
    ASSIGN_OR_RETURN(const uint64_t tag, Varint());
    field.number = static_cast<uint32_t>(tag >> 3);
    field.wire_type = static_cast<uint32_t>(tag & 7);
    if (tag >> 32 != 0 || field.number == 0) return Malformed("bad field tag");
    switch (field.wire_type) {
      case 0: {
        ASSIGN_OR_RETURN(field.varint, Varint());
        return field;
      }
      case 1:
      case 5: {
        const size_t width = field.wire_type == 1 ? 8 : 4;
        if (bytes_.size() < width) return Malformed("truncated");
        for (size_t i = width; i-- > 0;) {
          field.varint = (field.varint << 8) | static_cast<uint8_t>(bytes_[i]);
        }
        bytes_.remove_prefix(width);
        return field;
      }
      case 2: {
        ASSIGN_OR_RETURN(const uint64_t length, Varint());
        if (length > bytes_.size()) return Malformed("truncated");
        field.payload = bytes_.substr(0, length);
        bytes_.remove_prefix(length);
        return field;
      }
      default:
        return Malformed("bad wire type");
    }
  }

 private:
  absl::StatusOr<uint64_t> Varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (bytes_.empty()) return Malformed("truncated");
      const uint8_t byte = static_cast<uint8_t>(bytes_.front());
      bytes_.remove_prefix(1);
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if ((byte & 0x80) == 0) return value;
    }
    return Malformed("varint too long");
  }

  std::string_view bytes_;
};

absl::Status WantType(const FieldReader::Field& field, uint32_t wire_type, std::string_view name) {
  if (field.wire_type == wire_type) return absl::OkStatus();
  return Malformed(Cat(name, " has wire type ", field.wire_type));
}

absl::Status ReadBool(const FieldReader::Field& field, std::string_view name, bool* value) {
  RETURN_IF_ERROR(WantType(field, 0, name));
  *value = field.varint != 0;
  return absl::OkStatus();
}

absl::Status ReadText(const FieldReader::Field& field, std::string_view name, std::string* value) {
  RETURN_IF_ERROR(WantType(field, 2, name));
  if (!IsValidUtf8(field.payload)) return Malformed(Cat(name, " is not UTF-8"));
  *value = std::string(field.payload);
  return absl::OkStatus();
}

absl::StatusOr<Piece> ReadPiece(std::string_view bytes, size_t index) {
  const std::string name = Cat("pieces[", index, "]");
  Piece piece;
  FieldReader reader(bytes);
  while (!reader.done()) {
    ASSIGN_OR_RETURN(const auto field, reader.Next());
    if (field.number == 1) {
      RETURN_IF_ERROR(ReadText(field, name + ".piece", &piece.text));
    } else if (field.number == 2) {
      RETURN_IF_ERROR(WantType(field, 5, name + ".score"));
      piece.score = std::bit_cast<float>(static_cast<uint32_t>(field.varint));
    } else if (field.number == 3) {
      RETURN_IF_ERROR(WantType(field, 0, name + ".type"));
      if (field.varint < 1 || field.varint > 6) return Malformed(name + ".type is unknown");
      piece.type = static_cast<Type>(field.varint);
    }
  }
  if (piece.text.empty()) return Malformed(name + ".piece is empty");
  if (piece.text.find('\0') != std::string::npos) return Malformed(name + ".piece holds a NUL");
  if (!(std::fabs(piece.score) <= kMaxScore)) return Malformed(name + ".score is out of range");
  return piece;
}

absl::Status ReadTrainerSpec(std::string_view bytes, SentencePieceModel* model) {
  FieldReader reader(bytes);
  while (!reader.done()) {
    ASSIGN_OR_RETURN(const auto field, reader.Next());
    switch (field.number) {
      case 3:
        RETURN_IF_ERROR(WantType(field, 0, "trainer_spec.model_type"));
        if (field.varint != 1 && field.varint != 2) {
          return absl::UnimplementedError(Cat("SentencePiece model: trainer_spec.model_type ",
                                              field.varint,
                                              " (only 1 = UNIGRAM and 2 = BPE are supported)"));
        }
        model->algorithm = static_cast<SentencePieceModel::Algorithm>(field.varint);
        break;
      case 24: {
        bool as_suffix = false;
        RETURN_IF_ERROR(ReadBool(field, "trainer_spec.treat_whitespace_as_suffix", &as_suffix));
        if (as_suffix) {
          return absl::UnimplementedError(
              "SentencePiece model: trainer_spec.treat_whitespace_as_suffix");
        }
        break;
      }
      case 35:
        RETURN_IF_ERROR(ReadBool(field, "trainer_spec.byte_fallback", &model->byte_fallback));
        break;
      case 44:
        RETURN_IF_ERROR(ReadText(field, "trainer_spec.unk_surface", &model->unk_surface));
        break;
      case 46:
        RETURN_IF_ERROR(ReadText(field, "trainer_spec.bos_piece", &model->bos_piece));
        break;
      case 47:
        RETURN_IF_ERROR(ReadText(field, "trainer_spec.eos_piece", &model->eos_piece));
        break;
      default:
        break;  // how the model was trained
    }
  }
  return absl::OkStatus();
}

absl::Status ReadNormalizerSpec(std::string_view bytes, SentencePieceModel* model) {
  FieldReader reader(bytes);
  while (!reader.done()) {
    ASSIGN_OR_RETURN(const auto field, reader.Next());
    switch (field.number) {
      case 2:
        RETURN_IF_ERROR(WantType(field, 2, "normalizer_spec.precompiled_charsmap"));
        model->charsmap = std::string(field.payload);
        break;
      case 3:
        RETURN_IF_ERROR(
            ReadBool(field, "normalizer_spec.add_dummy_prefix", &model->add_dummy_prefix));
        break;
      case 4:
        RETURN_IF_ERROR(ReadBool(field, "normalizer_spec.remove_extra_whitespaces",
                                 &model->remove_extra_whitespaces));
        break;
      case 5:
        RETURN_IF_ERROR(
            ReadBool(field, "normalizer_spec.escape_whitespaces", &model->escape_whitespaces));
        break;
      default:
        break;  // the rule's name and source
    }
  }
  return absl::OkStatus();
}

absl::Status RefuseDenormalizer(std::string_view bytes) {
  FieldReader reader(bytes);
  while (!reader.done()) {
    ASSIGN_OR_RETURN(const auto field, reader.Next());
    if (field.number == 2 && !field.payload.empty()) {
      return absl::UnimplementedError("SentencePiece model: denormalizer_spec");
    }
  }
  return absl::OkStatus();
}

// "<0x0A>", upper case as the library writes it, to 10; -1 for anything else.
int ByteOfPiece(std::string_view text) {
  static constexpr std::string_view kDigits = "0123456789ABCDEF";
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return -1;
  const size_t high = kDigits.find(text[3]), low = kDigits.find(text[4]);
  if (high == std::string_view::npos || low == std::string_view::npos) return -1;
  return static_cast<int>(high * 16 + low);
}

absl::Status CheckPieces(SentencePieceModel* model) {
  std::set<std::string_view> seen;
  std::vector<bool> byte_seen(256, false);
  bool unk_seen = false;
  for (size_t i = 0; i < model->pieces.size(); ++i) {
    Piece& piece = model->pieces[i];
    const std::string name = Cat("pieces[", i, "]");
    // The library keeps two name spaces, for text and for the rest. A name in both would make
    // text turn into control tokens.
    if (!seen.insert(piece.text).second) return Malformed(name + ".piece is defined twice");
    if (piece.type == Type::kUnknown) {
      if (unk_seen) return Malformed(name + " is a second unknown piece");
      unk_seen = true;
      model->unk_id = static_cast<int32_t>(i);
    } else if (piece.type == Type::kByte) {
      const int byte = ByteOfPiece(piece.text);
      if (byte < 0) return Malformed(name + ".piece names no byte");
      if (!model->byte_fallback) return Malformed(name + " is a byte, but byte_fallback is false");
      piece.byte = static_cast<uint8_t>(byte);
      byte_seen[byte] = true;
      model->byte_ids[byte] = static_cast<int32_t>(i);
    }
  }
  if (!unk_seen) return Malformed("no unknown piece");
  if (model->byte_fallback) {
    for (int byte = 0; byte < 256; ++byte) {
      if (!byte_seen[byte]) return Malformed(absl::StrFormat("no piece for byte 0x%02X", byte));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SentencePieceModel> ParseSentencePieceModel(std::string_view bytes) {
  SentencePieceModel model;
  FieldReader reader(bytes);
  while (!reader.done()) {
    ASSIGN_OR_RETURN(const auto field, reader.Next());
    if (field.number == 1 || field.number == 2 || field.number == 3 || field.number == 5) {
      RETURN_IF_ERROR(WantType(field, 2, Cat("field ", field.number)));
    }
    if (field.number == 1) {
      if (model.pieces.size() == kMaxPieces) return Malformed("too many pieces");
      ASSIGN_OR_RETURN(Piece piece, ReadPiece(field.payload, model.pieces.size()));
      model.pieces.push_back(std::move(piece));
    } else if (field.number == 2) {
      RETURN_IF_ERROR(ReadTrainerSpec(field.payload, &model));
    } else if (field.number == 3) {
      RETURN_IF_ERROR(ReadNormalizerSpec(field.payload, &model));
    } else if (field.number == 5) {
      RETURN_IF_ERROR(RefuseDenormalizer(field.payload));
    }
  }
  RETURN_IF_ERROR(CheckPieces(&model));
  return model;
}

}  // namespace reprise::models
