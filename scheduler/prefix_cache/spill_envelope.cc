#include "scheduler/prefix_cache/spill_envelope.h"

#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"

namespace reprise::scheduler {
namespace {

constexpr std::string_view kMagic = "RPRXPFX1";
constexpr size_t kHeaderBytes = 8 + 32 + 8;

void AppendNumber(uint64_t value, std::string& out) {
  for (int i = 0; i < 8; ++i) out.push_back(static_cast<char>(value >> (8 * i)));
}

uint64_t ReadNumber(std::string_view bytes) {
  uint64_t value = 0;
  for (int i = 8; i-- > 0;) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  return value;
}

}  // namespace

std::string SealImage(const Sha256Digest& digest, const StateImage& image) {
  std::string sealed;
  sealed.reserve(kHeaderBytes + image->size() + 8);
  sealed.append(kMagic);
  sealed.append(digest.begin(), digest.end());
  AppendNumber(image->size(), sealed);
  sealed.append(image->begin(), image->end());
  AppendNumber(Checksum64(sealed), sealed);
  return sealed;
}

absl::StatusOr<StateImage> OpenImage(const Sha256Digest& digest, std::string_view sealed) {
  const auto damaged = [](const char* what) {
    return absl::DataLossError(absl::StrCat("a shared state is damaged: ", what));
  };
  if (sealed.size() < kHeaderBytes + 8 || sealed.substr(0, 8) != kMagic) return damaged("header");
  const std::string_view body = sealed.substr(0, sealed.size() - 8);
  if (ReadNumber(sealed.substr(body.size())) != Checksum64(body)) return damaged("checksum");
  if (std::memcmp(body.data() + 8, digest.data(), digest.size()) != 0) return damaged("digest");
  if (ReadNumber(body.substr(40)) != body.size() - kHeaderBytes) return damaged("length");
  const auto* image = reinterpret_cast<const uint8_t*>(body.data()) + kHeaderBytes;
  return std::make_shared<const Bytes>(image, image + body.size() - kHeaderBytes);
}

}  // namespace reprise::scheduler
