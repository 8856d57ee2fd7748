#include "service/turn_progress.h"

#include <algorithm>
#include <string_view>

#include "base/status_macros.h"
#include "service/errors.h"

namespace reprise::service {
namespace {

constexpr char kVersion = 1;

class Writer {
 public:
  void Number(uint64_t value) {
    for (int i = 0; i < 8; ++i) bytes_.push_back(static_cast<char>(value >> (8 * i)));
  }
  void Bytes(std::string_view text) {
    Number(text.size());
    bytes_ += text;
  }
  std::string bytes_{kVersion};
};

// Nothing is read past the end; ok() says whether all was there.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : rest_(bytes) {}
  uint64_t Number() {
    const std::string_view bytes = Take(8);
    uint64_t value = 0;
    for (size_t i = 0; i < bytes.size(); ++i) {
      value |= static_cast<uint64_t>(static_cast<uint8_t>(bytes[i])) << (8 * i);
    }
    return value;
  }
  std::string_view Bytes() { return Take(Number()); }
  std::string_view Take(uint64_t size) {
    if (size > rest_.size()) {
      ok_ = false;
      rest_ = {};
      return {};
    }
    const std::string_view taken = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return taken;
  }
  bool done() const { return ok_ && rest_.empty(); }

 private:
  std::string_view rest_;
  bool ok_ = true;
};

}  // namespace

std::string EncodeProgress(const TurnProgress& progress) {
  Writer writer;
  writer.Bytes(progress.session_id);
  writer.Bytes(progress.request_id);
  writer.Number(progress.start_version);
  writer.Number(static_cast<uint64_t>(progress.start_tokens));
  writer.Bytes(progress.start_snapshot);
  writer.Number(progress.start_is_ours ? 1 : 0);
  writer.Bytes(progress.start_detokenizer);
  writer.bytes_.append(reinterpret_cast<const char*>(progress.prompt_hash.data()),
                       progress.prompt_hash.size());
  writer.Number(static_cast<uint64_t>(progress.prompt_tokens));
  writer.Number(static_cast<uint64_t>(progress.prompt_done));
  std::string ids(progress.generated.size() * 4, '\0');
  for (size_t i = 0; i < progress.generated.size(); ++i) {
    const auto id = static_cast<uint32_t>(progress.generated[i]);
    for (int b = 0; b < 4; ++b) ids[4 * i + b] = static_cast<char>(id >> (8 * b));
  }
  writer.Bytes(ids);
  return std::move(writer.bytes_);
}

absl::StatusOr<TurnProgress> DecodeProgress(const std::string& bytes) {
  const absl::Status corrupt =
      MakeError(v1::ERROR_REASON_CORRUPT_SNAPSHOT, "the checkpoint's progress is damaged");
  if (bytes.empty() || bytes[0] != kVersion) return corrupt;
  Reader reader(std::string_view(bytes).substr(1));
  TurnProgress progress;
  progress.session_id = reader.Bytes();
  progress.request_id = reader.Bytes();
  progress.start_version = reader.Number();
  progress.start_tokens = static_cast<int64_t>(reader.Number());
  progress.start_snapshot = reader.Bytes();
  progress.start_is_ours = reader.Number() == 1;
  progress.start_detokenizer = reader.Bytes();
  const std::string_view hash = reader.Take(progress.prompt_hash.size());
  std::copy(hash.begin(), hash.end(), progress.prompt_hash.begin());
  progress.prompt_tokens = static_cast<int64_t>(reader.Number());
  progress.prompt_done = static_cast<int64_t>(reader.Number());
  const std::string_view ids = reader.Bytes();
  if (!reader.done() || ids.size() % 4 != 0 || progress.start_tokens < 0 ||
      progress.prompt_done < 0 || progress.prompt_done > progress.prompt_tokens) {
    return corrupt;
  }
  for (size_t i = 0; i < ids.size(); i += 4) {
    uint32_t id = 0;
    for (int b = 0; b < 4; ++b)
      id |= static_cast<uint32_t>(static_cast<uint8_t>(ids[i + b])) << (8 * b);
    progress.generated.push_back(static_cast<int32_t>(id));
  }
  return progress;
}

}  // namespace reprise::service
