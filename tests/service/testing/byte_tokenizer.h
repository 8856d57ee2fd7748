// The simplest tokenizer there is: a token per byte.
#ifndef REPRISE_TESTS_SERVICE_TESTING_BYTE_TOKENIZER_H_
#define REPRISE_TESTS_SERVICE_TESTING_BYTE_TOKENIZER_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/tokenizer/detokenizer.h"
#include "models/tokenizer/tokenizer.h"
#include "models/tokenizer/utf8.h"

namespace reprise::service::testing {

class ByteTokenizer final : public models::Tokenizer {
 public:
  static constexpr int32_t kBos = 0;
  static constexpr int32_t kEos = 1;
  static constexpr int32_t kFirstByte = 2;
  static constexpr int32_t kVocabulary = kFirstByte + 256;

  static int32_t Id(char byte) { return kFirstByte + static_cast<unsigned char>(byte); }

  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                              const models::EncodeOptions& options) const override {
    if (!models::IsValidUtf8(text)) return absl::InvalidArgumentError("not UTF-8");
    std::vector<int32_t> ids;
    if (options.add_bos) ids.push_back(kBos);
    for (char byte : text) ids.push_back(Id(byte));
    return ids;
  }
  absl::StatusOr<std::string> TokenBytes(int32_t id) const override {
    if (id < 0 || id >= kVocabulary) return absl::OutOfRangeError(absl::StrCat("token ", id));
    return id < kFirstByte ? std::string() : std::string(1, static_cast<char>(id - kFirstByte));
  }
  absl::StatusOr<std::string> Decode(absl::Span<const int32_t> ids) const override {
    return models::DecodeAll(*this, ids);
  }
  int32_t vocab_size() const override { return kVocabulary; }
  std::optional<int32_t> bos_id() const override { return kBos; }
  std::optional<int32_t> eos_id() const override { return kEos; }
  bool IsControl(int32_t id) const override { return id < kFirstByte; }
  const std::string& fingerprint() const override { return fingerprint_; }

 private:
  const std::string fingerprint_ = std::string(64, 'b');
};

// The tokens of `text`, without a beginning-of-sequence token.
inline std::vector<int32_t> Bytes(std::string_view text) {
  std::vector<int32_t> ids;
  for (char byte : text) ids.push_back(ByteTokenizer::Id(byte));
  return ids;
}

}  // namespace reprise::service::testing

#endif  // REPRISE_TESTS_SERVICE_TESTING_BYTE_TOKENIZER_H_
