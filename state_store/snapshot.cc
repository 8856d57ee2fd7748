#include "state_store/snapshot.h"

#include <set>

#include "base/status_macros.h"
#include "state_store/internal/cat.h"
#include "state_store/internal/validate.h"
#include "state_store/session.h"
#include "state_store/store_error.h"

namespace reprise::state_store {
namespace {

absl::Status Refuse(std::string_view field, std::string_view problem) {
  return MakeStoreError(StoreError::kInvalidArgument, Cat(field, " ", problem));
}

// Well-formed UTF-8 without surrogates and overlong forms: these strings go into protobuf.
bool IsUtf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<uint8_t>(text[i]);
    const int more = lead < 0x80   ? 0
                     : lead < 0xC2 ? -1
                     : lead < 0xE0 ? 1
                     : lead < 0xF0 ? 2
                     : lead < 0xF5 ? 3
                                   : -1;
    if (more < 0 || i + more >= text.size()) return false;
    uint32_t code = more == 0 ? lead : lead & (0x3F >> more);
    for (int k = 1; k <= more; ++k) {
      const auto byte = static_cast<uint8_t>(text[i + k]);
      if ((byte & 0xC0) != 0x80) return false;
      code = code << 6 | (byte & 0x3F);
    }
    if (more == 2 && (code < 0x800 || (code >= 0xD800 && code < 0xE000))) return false;
    if (more == 3 && (code < 0x10000 || code > 0x10FFFF)) return false;
    i += more + 1;
  }
  return true;
}

absl::Status CheckText(std::string_view field, std::string_view text, size_t max_bytes) {
  if (text.size() > max_bytes) {
    return Refuse(field, Cat("has ", text.size(), " bytes, more than ", max_bytes));
  }
  if (!IsUtf8(text)) return Refuse(field, "is not UTF-8");
  return absl::OkStatus();
}

absl::Status CheckPart(const SnapshotPart& part) {
  const std::string field = Cat("part \"", part.name, "\"");
  if (part.chunks.size() > kMaxChunksPerPart) return Refuse(field, "has too many chunks");
  uint64_t sum = 0;
  for (const ChunkRef& chunk : part.chunks) {
    if (chunk.raw_length == 0 || chunk.raw_length > kMaxChunkBytes) {
      return Refuse(field, Cat("has a chunk of ", chunk.raw_length, " bytes"));
    }
    if (chunk.codec != ChunkCodec::kRaw && chunk.codec != ChunkCodec::kZstd) {
      return Refuse(field, Cat("has a chunk of codec ", int{uint8_t(chunk.codec)}));
    }
    // A codec that does not help is not used, so stored is never above raw.
    if (chunk.stored_length == 0 || chunk.stored_length > chunk.raw_length ||
        (chunk.codec == ChunkCodec::kRaw && chunk.stored_length != chunk.raw_length)) {
      return Refuse(field, Cat("has a chunk of stored length ", chunk.stored_length));
    }
    sum += chunk.raw_length;
  }
  if (sum != part.byte_length) {
    return Refuse(field, Cat("has ", part.byte_length, " bytes, its chunks ", sum));
  }
  return absl::OkStatus();
}

}  // namespace

uint64_t SnapshotManifest::LogicalBytes() const {
  uint64_t sum = 0;
  for (const SnapshotPart& part : parts) sum += part.byte_length;
  return sum;
}

absl::Status ValidateLabels(const Labels& labels) {
  if (labels.size() > kMaxLabels) return Refuse("labels", "are too many");
  for (const auto& [key, value] : labels) {
    if (key.empty()) return Refuse("label", "has an empty key");
    RETURN_IF_ERROR(CheckText("label key", key, kMaxLabelBytes));
    RETURN_IF_ERROR(CheckText("label value", value, kMaxLabelBytes));
  }
  return absl::OkStatus();
}

absl::Status ValidateModelId(std::string_view model_id) {
  return CheckText("model_id", model_id, kMaxNameBytes);
}

absl::Status ValidateTenant(std::string_view tenant) {
  if (tenant.empty()) return Refuse("tenant", "is empty");
  return CheckText("tenant", tenant, kMaxTenantBytes);
}

absl::Status ValidateNewManifest(const SnapshotManifest& m) {
  if (m.model_id.empty()) return Refuse("model_id", "is empty");
  RETURN_IF_ERROR(ValidateModelId(m.model_id));
  RETURN_IF_ERROR(CheckText("weights_fingerprint", m.weights_fingerprint, kMaxNameBytes));
  RETURN_IF_ERROR(CheckText("tokenizer_fingerprint", m.tokenizer_fingerprint, kMaxNameBytes));
  RETURN_IF_ERROR(CheckText("layout_digest", m.layout_digest, kMaxNameBytes));
  RETURN_IF_ERROR(CheckText("kernel_order_id", m.kernel_order_id, kMaxNameBytes));
  if (m.position > m.token_count) {
    return Refuse("position", Cat(m.position, " is past token_count ", m.token_count));
  }
  if (m.parts.size() > kMaxParts) return Refuse("parts", "are too many");
  std::set<std::string_view> names;
  for (const SnapshotPart& part : m.parts) {
    if (part.name.empty()) return Refuse("part", "has an empty name");
    RETURN_IF_ERROR(CheckText("part name", part.name, kMaxNameBytes));
    RETURN_IF_ERROR(CheckText("part dtype", part.dtype, kMaxNameBytes));
    if (!names.insert(part.name).second) {
      return Refuse("part", Cat("\"", part.name, "\" is there twice"));
    }
    if (part.shape.size() > kMaxShapeDims) return Refuse("part shape", "has too many dimensions");
  }
  if (m.legs.size() > kMaxLegs) return Refuse("legs", "are too many");
  for (const auto& [name, bytes] : m.legs) {
    if (name.empty()) return Refuse("leg", "has an empty name");
    RETURN_IF_ERROR(CheckText("leg name", name, kMaxNameBytes));
    if (bytes.size() > kMaxLegBytes) return Refuse("leg", Cat(name, " is too long"));
  }
  return ValidateLabels(m.labels);
}

absl::Status ValidateManifest(const SnapshotManifest& m) {
  if (m.format_version != kManifestVersion) {
    return Refuse("format_version", Cat("is ", m.format_version));
  }
  if (m.snapshot_id.empty()) return Refuse("snapshot_id", "is empty");
  RETURN_IF_ERROR(CheckText("snapshot_id", m.snapshot_id, kMaxIdBytes));
  RETURN_IF_ERROR(CheckText("parent_snapshot_id", m.parent_snapshot_id, kMaxIdBytes));
  RETURN_IF_ERROR(ValidateTenant(m.tenant));
  RETURN_IF_ERROR(ValidateNewManifest(m));
  for (const SnapshotPart& part : m.parts) RETURN_IF_ERROR(CheckPart(part));
  return absl::OkStatus();
}

bool IsValidSessionId(std::string_view id) {
  if (id.empty() || id.size() > 63 || id.front() == '-' || id.back() == '-') return false;
  for (const char c : id) {
    if (!(c == '-' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z'))) return false;
  }
  return true;
}

Sha256Digest ExtendTokenHash(const Sha256Digest& previous, int32_t token) {
  const auto bits = static_cast<uint32_t>(token);
  std::string bytes(reinterpret_cast<const char*>(previous.data()), previous.size());
  for (int i = 0; i < 4; ++i) bytes.push_back(static_cast<char>(bits >> (8 * i)));
  return Sha256(bytes);
}

}  // namespace reprise::state_store
