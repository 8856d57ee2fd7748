// Text <-> token ids, as the checkpoint's own tokenizer files define it. Start here:
// LoadTokenizer() reads a checkpoint folder; detokenizer.h streams text out of tokens.
#ifndef REPRISE_MODELS_TOKENIZER_TOKENIZER_H_
#define REPRISE_MODELS_TOKENIZER_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace reprise::models {

struct EncodeOptions {
  // Prepend the BOS if the model has one. A checkpoint whose tokenizer names a BOS but never
  // puts it before a prompt (GPT-NeoX, `add_bos_token: false`) gets none.
  bool add_bos = true;
  // Whether the text of special tokens ("<bos>", "<|endoftext|>") in the input becomes those
  // tokens. false = it is plain text, so that user text cannot inject control tokens.
  bool parse_special = false;
};

// How the bytes of tokens become text; what Decode and Detokenizer follow.
struct DecodeRules {
  enum class Bytes : uint8_t {
    kStream = 0,      // byte-level: all bytes form one stream, broken characters become U+FFFD
    kRunPerByte = 1,  // SentencePiece: in a run of byte tokens each stray byte becomes U+FFFD
    kRunWhole = 2,    // HF ByteFallback: one stray byte turns its whole run into U+FFFDs
  };
  // While does a token at the beginning of a text give FirstTokenBytes?
  enum class First : uint8_t {
    kNone = 0,
    kFirstToken = 1,     // for the first token that is not a control token
    kUntilStripped = 2,  // until a token lost its space or gave text
    kUntilText = 3,      // until a token gave text
  };
  Bytes bytes = Bytes::kStream;
  First first = First::kNone;
  bool control_ends_run = false;  // a control token ends a run of byte tokens
  std::string strip_text;         // one character ...
  uint32_t strip_count = 0;       // ... of which up to this many go from the text's beginning
};

// Thread-safe after construction.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // INVALID_ARGUMENT on invalid UTF-8 (says the byte offset).
  virtual absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                                      const EncodeOptions& options) const = 0;
  // Bytes that token `id` contributes to the text (not always valid UTF-8 alone; empty for
  // control tokens). OUT_OF_RANGE for an id outside the vocabulary.
  virtual absl::StatusOr<std::string> TokenBytes(int32_t id) const = 0;
  // The whole text of the ids, control tokens skipped, invalid UTF-8 replaced by U+FFFD (as the
  // reference library does it).
  virtual absl::StatusOr<std::string> Decode(absl::Span<const int32_t> ids) const = 0;
  virtual int32_t vocab_size() const = 0;
  virtual std::optional<int32_t> bos_id() const = 0;
  virtual std::optional<int32_t> eos_id() const = 0;
  // Tokens that stand for no text: special tokens, and ids that the vocabulary leaves unused.
  virtual bool IsControl(int32_t id) const = 0;
  // Hex SHA-256 of the file(s) the tokenizer was loaded from.
  virtual const std::string& fingerprint() const = 0;

  // For Detokenizer; the defaults suit a byte-level vocabulary.
  virtual const DecodeRules& decode_rules() const;
  // Whether `id` stands for one raw byte ("<0x0A>") that takes part in a run of bytes.
  virtual bool IsByte(int32_t /*id*/) const { return false; }
  // TokenBytes for a token at the beginning of a text, see DecodeRules::First.
  virtual absl::StatusOr<std::string> FirstTokenBytes(int32_t id) const { return TokenBytes(id); }
};

// Loads tokenizer.model (SentencePiece) or tokenizer.json from a checkpoint folder;
// tokenizer.json wins when both are there only if it has a supported model type. Reads
// tokenizer_config.json for bos/eos when present. Errors name the file and the key:
// NOT_FOUND (no tokenizer file), INVALID_ARGUMENT (malformed), UNIMPLEMENTED (not supported).
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& directory);

}  // namespace reprise::models

#endif  // REPRISE_MODELS_TOKENIZER_TOKENIZER_H_
