// Text out of a stream of tokens, character by character.
#ifndef REPRISE_MODELS_TOKENIZER_DETOKENIZER_H_
#define REPRISE_MODELS_TOKENIZER_DETOKENIZER_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "models/tokenizer/tokenizer.h"

namespace reprise::models {

// Some tokenizers write a space before every text and take it away again on decoding. A
// continuation (what a model generates after a prompt) keeps the space of its first token.
enum class TextStart { kBeginning, kContinuation };

// Incremental detokenization: never emits half a UTF-8 character; the concatenation of all
// outputs plus Flush() equals Decode of all ids if it started at kBeginning, and the same with
// the leading-space rule switched off if it started at kContinuation. Not thread-safe; the
// tokenizer must outlive it.
class Detokenizer {
 public:
  explicit Detokenizer(const Tokenizer* tokenizer, TextStart start = TextStart::kContinuation);

  // The text that became certain. On error (OUT_OF_RANGE) nothing has changed.
  absl::StatusOr<std::string> Append(int32_t id);
  // What is left; an incomplete sequence becomes U+FFFD.
  std::string Flush();

  // A few bytes, part of a session's snapshot. Only a tokenizer whose broken runs of byte tokens
  // are replaced as a whole (DecodeRules::Bytes::kRunWhole) keeps more than three pending bytes.
  std::string SaveState() const;
  // Takes what SaveState gave for the same tokenizer. DATA_LOSS on anything malformed; then
  // nothing has changed.
  absl::Status RestoreState(std::string_view state);

 private:
  void DrainPending(std::string* out);  // moves what is certain from pending_ to out
  void EndRun(std::string* out);        // what is left in pending_ will not be completed
  void StripBeginning(std::string* out);

  const Tokenizer* tokenizer_;
  bool first_;               // FirstTokenBytes still applies
  uint32_t strip_left_;      // characters that may still be stripped from the beginning
  bool run_broken_ = false;  // kRunWhole: this run holds an invalid byte
  std::string pending_;
  size_t whole_ = 0;  // kRunWhole: so many bytes of pending_ are whole characters
};

// Decode() for every tokenizer: a Detokenizer at kBeginning over all ids.
absl::StatusOr<std::string> DecodeAll(const Tokenizer& tokenizer, absl::Span<const int32_t> ids);

}  // namespace reprise::models

#endif  // REPRISE_MODELS_TOKENIZER_DETOKENIZER_H_
