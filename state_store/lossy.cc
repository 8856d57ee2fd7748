#include "state_store/lossy.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "base/status_macros.h"
#include "state_store/internal/cat.h"
#include "state_store/store_error.h"

namespace reprise::state_store {
namespace {

constexpr std::string_view kExact = "f32";
constexpr std::string_view kBf16 = "f32~bf16";
constexpr std::string_view kInt8 = "f32~i8x";
constexpr uint64_t kMaxRow = 1 << 24;  // elements

struct Encoding {
  LossyEncoding kind;
  uint64_t row = 0;  // elements, of kInt8Rows
};

absl::Status Unfit(const SnapshotPart& part, std::string_view problem) {
  return MakeStoreError(StoreError::kCorruptManifest,
                        Cat("part \"", part.name, "\" of dtype ", part.dtype, ": ", problem));
}

// nullopt for an exact part.
absl::StatusOr<std::optional<Encoding>> EncodingOf(const SnapshotPart& part) {
  const std::string_view dtype = part.dtype;
  if (dtype.find('~') == std::string_view::npos) return std::nullopt;
  if (dtype == kBf16) return Encoding{LossyEncoding::kBf16};
  uint64_t row = 0;
  if (dtype.substr(0, kInt8.size()) == kInt8 &&
      absl::SimpleAtoi(absl::string_view(dtype.data(), dtype.size()).substr(kInt8.size()), &row) &&
      row >= 1 && row <= kMaxRow && dtype == Cat(kInt8, row)) {
    return Encoding{LossyEncoding::kInt8Rows, row};
  }
  return MakeStoreError(StoreError::kUnsupportedVersion,
                        Cat("part \"", part.name, "\" has the unknown dtype ", dtype));
}

// Elements that `bytes` encoded bytes hold.
absl::StatusOr<uint64_t> ElementsOf(const SnapshotPart& part, const Encoding& encoding,
                                    uint64_t bytes) {
  if (encoding.kind == LossyEncoding::kBf16) {
    if (bytes % 2 != 0) return Unfit(part, Cat(bytes, " bytes are no whole elements"));
    return bytes / 2;
  }
  const uint64_t row_bytes = 4 + encoding.row;
  const uint64_t rest = bytes % row_bytes;
  if (rest != 0 && rest <= 4) return Unfit(part, Cat(bytes, " bytes end in half a row"));
  return bytes / row_bytes * encoding.row + (rest == 0 ? 0 : rest - 4);
}

uint16_t RoundToBf16(uint32_t bits) {
  // A NaN stays one: rounding might carry it into infinity.
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

std::string EncodeBf16(std::string_view exact) {
  const size_t n = exact.size() / 4;
  std::string encoded(n * 2, '\0');
  for (size_t i = 0; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, exact.data() + i * 4, 4);
    const uint16_t rounded = RoundToBf16(bits);
    std::memcpy(encoded.data() + i * 2, &rounded, 2);
  }
  return encoded;
}

std::string DecodeBf16(std::string_view encoded) {
  const size_t n = encoded.size() / 2;
  std::string exact(n * 4, '\0');
  for (size_t i = 0; i < n; ++i) {
    // The low half of a little endian f32 is zero.
    std::memcpy(exact.data() + i * 4 + 2, encoded.data() + i * 2, 2);
  }
  return exact;
}

// nullopt if an element is not finite.
std::optional<std::string> EncodeInt8(std::string_view exact, uint64_t row_elements) {
  const size_t n = exact.size() / 4;
  std::string encoded;
  encoded.reserve(n + (n / row_elements + 1) * 4);
  std::vector<float> row;
  for (size_t begin = 0; begin < n; begin += row.size()) {
    row.resize(std::min<size_t>(row_elements, n - begin));
    std::memcpy(row.data(), exact.data() + begin * 4, row.size() * 4);
    float largest = 0;
    bool finite = true;
    for (const float x : row) {
      finite = finite && std::isfinite(x);
      largest = std::max(largest, std::abs(x));
    }
    if (!finite) return std::nullopt;
    const float scale = largest / 127;
    encoded.append(reinterpret_cast<const char*>(&scale), 4);
    for (const float x : row) {
      // In double, so that a scale that is subnormal does no harm.
      const double q = scale == 0 ? 0 : std::nearbyint(double{x} / scale);
      encoded.push_back(static_cast<char>(static_cast<int8_t>(std::clamp(q, -127.0, 127.0))));
    }
  }
  return encoded;
}

std::string DecodeInt8(std::string_view encoded, uint64_t row_elements, uint64_t elements) {
  std::string exact(elements * 4, '\0');
  char* out = exact.data();
  while (!encoded.empty()) {
    float scale;
    std::memcpy(&scale, encoded.data(), 4);
    encoded.remove_prefix(4);
    const size_t n = std::min<size_t>(row_elements, encoded.size());
    for (size_t i = 0; i < n; ++i, out += 4) {
      const float x = static_cast<float>(static_cast<int8_t>(encoded[i])) * scale;
      std::memcpy(out, &x, 4);
    }
    encoded.remove_prefix(n);
  }
  return exact;
}

bool HasRole(std::string_view name, std::string_view role) {
  for (;;) {
    const size_t dot = name.find('.');
    if (name.substr(0, dot) == role) return true;
    if (dot == std::string_view::npos) return false;
    name.remove_prefix(dot + 1);
  }
}

const LossyRule* RuleFor(const std::vector<LossyRule>& rules, const SnapshotPart& part) {
  if (part.dtype != kExact) return nullptr;
  for (const LossyRule& rule : rules) {
    if (HasRole(part.name, rule.role)) return &rule;
  }
  return nullptr;
}

}  // namespace

absl::StatusOr<EncodedPayloads> EncodeLossy(const std::vector<LossyRule>& rules,
                                            const std::vector<std::string>& payloads,
                                            std::vector<SnapshotPart>& parts) {
  EncodedPayloads result;
  result.owned.resize(payloads.size());
  for (size_t i = 0; i < payloads.size(); ++i) {
    SnapshotPart& part = parts[i];
    const auto refuse = [&](std::string_view problem) {
      return MakeStoreError(StoreError::kInvalidArgument,
                            Cat("part \"", part.name, "\": ", problem));
    };
    const LossyRule* rule = RuleFor(rules, part);
    if (rule == nullptr) {
      result.views.push_back(payloads[i]);
      continue;
    }
    if (payloads[i].size() % 4 != 0) return refuse("is no whole number of f32");
    if (rule->encoding == LossyEncoding::kBf16) {
      result.owned[i] = EncodeBf16(payloads[i]);
      part.dtype = kBf16;
    } else {
      const uint64_t row = part.shape.empty() ? 1 : part.shape.back();
      if (row < 1 || row > kMaxRow) return refuse("has no row for a scale");
      std::optional<std::string> encoded = EncodeInt8(payloads[i], row);
      if (!encoded.has_value()) return refuse("is not finite, so it has no scale");
      result.owned[i] = *std::move(encoded);
      part.dtype = Cat(kInt8, row);
    }
    part.byte_length = result.owned[i].size();
    result.views.push_back(result.owned[i]);
  }
  return result;
}

absl::StatusOr<std::shared_ptr<const Snapshot>> AsReadBack(
    const std::vector<LossyRule>& rules, std::shared_ptr<const Snapshot> snapshot) {
  const std::vector<SnapshotPart>& parts = snapshot->manifest.parts;
  if (std::none_of(parts.begin(), parts.end(),
                   [&](const SnapshotPart& part) { return RuleFor(rules, part) != nullptr; })) {
    return snapshot;
  }
  auto result = std::make_shared<Snapshot>();
  result->manifest = snapshot->manifest;
  ASSIGN_OR_RETURN(EncodedPayloads encoded,
                   EncodeLossy(rules, snapshot->payloads, result->manifest.parts));
  for (size_t i = 0; i < parts.size(); ++i) {
    const bool exact = result->manifest.parts[i].dtype == parts[i].dtype;
    result->payloads.push_back(exact ? snapshot->payloads[i] : std::move(encoded.owned[i]));
  }
  RETURN_IF_ERROR(DecodeLossy(*result));
  return result;
}

absl::Status DecodeLossyManifest(SnapshotManifest& manifest) {
  for (SnapshotPart& part : manifest.parts) {
    ASSIGN_OR_RETURN(const std::optional<Encoding> encoding, EncodingOf(part));
    if (!encoding.has_value()) continue;
    ASSIGN_OR_RETURN(const uint64_t elements, ElementsOf(part, *encoding, part.byte_length));
    part.dtype = kExact;
    part.byte_length = elements * 4;
    part.chunks.clear();
  }
  return absl::OkStatus();
}

absl::Status CheckLossy(const SnapshotManifest& manifest) {
  for (const SnapshotPart& part : manifest.parts) {
    ASSIGN_OR_RETURN(const std::optional<Encoding> encoding, EncodingOf(part));
    if (encoding.has_value()) {
      RETURN_IF_ERROR(ElementsOf(part, *encoding, part.byte_length).status());
    }
  }
  return absl::OkStatus();
}

absl::Status DecodeLossy(Snapshot& snapshot) {
  for (size_t i = 0; i < snapshot.payloads.size(); ++i) {
    SnapshotPart& part = snapshot.manifest.parts[i];
    std::string& payload = snapshot.payloads[i];
    ASSIGN_OR_RETURN(const std::optional<Encoding> encoding, EncodingOf(part));
    if (!encoding.has_value()) continue;
    ASSIGN_OR_RETURN(const uint64_t elements, ElementsOf(part, *encoding, payload.size()));
    payload = encoding->kind == LossyEncoding::kBf16 ? DecodeBf16(payload)
                                                     : DecodeInt8(payload, encoding->row, elements);
    part.dtype = kExact;
    part.byte_length = payload.size();
    part.chunks.clear();
  }
  return absl::OkStatus();
}

}  // namespace reprise::state_store
