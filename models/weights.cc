#include "models/weights.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/hash.h"
#include "base/status_macros.h"
#include "kernels/device_queue.h"

namespace reprise::models {
namespace {

using kernels::DType;

// Large enough to hash at full speed, small enough to spread an embedding over all threads. Part of
// the fingerprint.
constexpr size_t kPieceBytes = size_t{4} << 20;

float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t magnitude = half & 0x7fff;
  float value;
  if (magnitude < 0x0400) {  // zero and subnormals: exact multiples of 2^-24
    value = static_cast<float>(magnitude) * 0x1p-24f;
    return sign != 0 ? -value : value;
  }
  // Rebias the exponent; infinities and NaNs keep theirs at the top.
  uint32_t bits = (magnitude << 13) + ((127 - 15) << 23);
  if (magnitude >= 0x7c00) bits = 0x7f800000 | magnitude << 13;
  bits |= sign;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

void WidenTo(const TensorView& tensor, DType dtype, float* out) {
  const int64_t count = tensor.num_elements();
  const char* data = tensor.bytes.data();
  if (dtype == DType::kF32) {
    std::memcpy(out, data, tensor.bytes.size());
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    uint16_t half;
    std::memcpy(&half, data + 2 * i, sizeof(half));
    if (dtype == DType::kF16) {
      out[i] = HalfToFloat(half);
    } else {
      const uint32_t bits = static_cast<uint32_t>(half) << 16;
      std::memcpy(&out[i], &bits, sizeof(bits));
    }
  }
}

template <typename Word>
bool HasExponent(std::string_view bytes, Word exponent) {
  bool found = false;
  for (size_t i = 0; i + sizeof(Word) <= bytes.size(); i += sizeof(Word)) {
    Word word;
    std::memcpy(&word, bytes.data() + i, sizeof(word));
    found |= (word & exponent) == exponent;
  }
  return found;
}

// Infinities and NaNs have all exponent bits set.
bool HasNonFinite(std::string_view bytes, DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return HasExponent<uint32_t>(bytes, 0x7f800000u);
    case DType::kBF16:
      return HasExponent<uint16_t>(bytes, 0x7f80);
    case DType::kF16:
      return HasExponent<uint16_t>(bytes, 0x7c00);
    default:
      return false;
  }
}

absl::StatusOr<kernels::Buffer> UploadBytes(const void* data, size_t bytes,
                                            const kernels::Context& context) {
  ASSIGN_OR_RETURN(kernels::Buffer buffer, kernels::Buffer::Allocate(context.device, bytes));
  if (bytes == 0) return buffer;
  if (context.device == kernels::Device::kCpu) {
    std::memcpy(buffer.data(), data, bytes);
    return buffer;
  }
  RETURN_IF_ERROR(context.queue->Upload(buffer.data(), data, bytes));
  RETURN_IF_ERROR(context.queue->Synchronize());
  return buffer;
}

}  // namespace

absl::StatusOr<Weights> Weights::Resolve(const Checkpoint& checkpoint,
                                         const RecurrentGemmaConfig& config, WeightFormat format) {
  Weights weights;
  weights.format_ = format;
  std::set<std::string> used;
  for (int layer = -1; layer < config.num_layers; ++layer) {
    for (const WeightSpec& spec : WeightTable()) {
      if (!IsNeeded(spec, config, layer)) continue;
      const std::vector<std::string> names = CheckpointNames(spec, layer);
      const TensorView* tensor = nullptr;
      for (const std::string& name : names) {
        tensor = checkpoint.Find(name);
        if (tensor != nullptr) break;
      }
      if (tensor == nullptr) {
        return absl::DataLossError(
            absl::StrCat(checkpoint.source(), ": tensor ", names.front(), " is missing"));
      }
      RETURN_IF_ERROR(tensor->FloatDType().status());
      const std::vector<int64_t> shape = ShapeOf(spec, config);
      if (tensor->shape != shape) {
        return absl::InvalidArgumentError(
            absl::StrCat(tensor->file, ": tensor ", tensor->name, ": the config asks for shape [",
                         absl::StrJoin(shape, ", "), "], found ", tensor->ShapeString()));
      }
      used.insert(tensor->name);
      weights.tensors_[{layer, spec.id}] = tensor;
    }
  }
  for (std::string& name : checkpoint.names()) {
    if (used.count(name) == 0) weights.unused_.push_back(std::move(name));
  }
  return weights;
}

const TensorView* Weights::Find(WeightId id, int layer) const {
  const auto it = tensors_.find({layer, id});
  return it == tensors_.end() ? nullptr : it->second;
}

absl::StatusOr<std::vector<float>> Weights::HostFloats(WeightId id, int layer) const {
  const TensorView* tensor = Find(id, layer);
  if (tensor == nullptr) return std::vector<float>();
  ASSIGN_OR_RETURN(const DType dtype, tensor->FloatDType());
  std::vector<float> values(tensor->num_elements());
  WidenTo(*tensor, dtype, values.data());
  return values;
}

absl::StatusOr<kernels::Buffer> Weights::Floats(const std::vector<WeightId>& ids, int layer,
                                                const kernels::Context& context) const {
  std::vector<float> values;
  for (const WeightId id : ids) {
    ASSIGN_OR_RETURN(const std::vector<float> more, HostFloats(id, layer));
    values.insert(values.end(), more.begin(), more.end());
  }
  return UploadFloats(values, context);
}

absl::StatusOr<kernels::Buffer> Weights::Raw(WeightId id, int layer,
                                             const kernels::Context& context) const {
  const TensorView* tensor = Find(id, layer);
  if (tensor == nullptr) return kernels::Buffer();
  return UploadBytes(tensor->bytes.data(), tensor->bytes.size(), context);
}

absl::StatusOr<kernels::PackedMatrix> Weights::Matrix(const std::vector<WeightId>& ids, int layer,
                                                      const kernels::Context& context,
                                                      bool gated) const {
  std::vector<const TensorView*> tensors;
  bool same_dtype = true;
  for (const WeightId id : ids) {
    tensors.push_back(Find(id, layer));
    if (tensors.back() == nullptr) {
      return absl::InternalError(absl::StrCat("weight ", SpecOf(id).name, " was not resolved"));
    }
    same_dtype &= tensors.back()->dtype_name == tensors.front()->dtype_name;
  }
  const TensorView& first = *tensors.front();
  kernels::PackedMatrix::Source source;
  ASSIGN_OR_RETURN(source.dtype, first.FloatDType());
  const bool blocked = first.shape.size() == 3;
  source.transposed = blocked;
  source.gated = gated;
  source.e4m3 = format_ == WeightFormat::kFp8 && std::all_of(ids.begin(), ids.end(), MayBeFp8);
  source.k = static_cast<int>(first.shape[1]);
  source.n = static_cast<int>(blocked ? first.shape[2] : 0);
  source.blocks = 0;
  if (blocked) source.x_blocks = static_cast<int>(first.shape[0]);
  for (const TensorView* tensor : tensors) {
    (blocked ? source.blocks : source.n) += static_cast<int>(tensor->shape[0]);
  }
  if (!blocked) source.blocks = 1;

  // The file promises no alignment of its tensors, and several lie apart.
  std::vector<char> joined;
  std::vector<float> widened;
  const bool aligned =
      reinterpret_cast<uintptr_t>(first.bytes.data()) % kernels::DTypeBytes(source.dtype) == 0;
  if (!same_dtype) {
    source.dtype = DType::kF32;
    for (const WeightId id : ids) {
      ASSIGN_OR_RETURN(const std::vector<float> more, HostFloats(id, layer));
      widened.insert(widened.end(), more.begin(), more.end());
    }
    source.data = widened.data();
  } else if (tensors.size() == 1 && aligned) {
    source.data = first.bytes.data();
  } else {
    for (const TensorView* tensor : tensors) {
      joined.insert(joined.end(), tensor->bytes.begin(), tensor->bytes.end());
    }
    source.data = joined.data();
  }
  absl::StatusOr<kernels::PackedMatrix> packed = kernels::PackedMatrix::Pack(source, context);
  if (!packed.ok()) return Prefixed(packed.status(), first.name);
  return packed;
}

absl::StatusOr<kernels::Buffer> UploadFloats(const std::vector<float>& values,
                                             const kernels::Context& context) {
  return UploadBytes(values.data(), values.size() * sizeof(float), context);
}

absl::StatusOr<std::string> Weights::Fingerprint(std::string_view config_json,
                                                 const kernels::Context& context) const {
  struct Piece {
    std::string_view bytes;
    const TensorView* tensor;
    DType dtype;
    Sha256Digest digest;
    bool non_finite;
  };
  std::vector<Piece> pieces;
  for (const auto& [key, tensor] : tensors_) {
    ASSIGN_OR_RETURN(const DType dtype, tensor->FloatDType());
    for (size_t at = 0; at < tensor->bytes.size(); at += kPieceBytes) {
      pieces.push_back({tensor->bytes.substr(at, kPieceBytes), tensor, dtype, {}, false});
    }
  }
  context.pool->Run(static_cast<int64_t>(pieces.size()), 1,
                    [&](int64_t begin, int64_t end, int /*thread*/) {
                      for (int64_t i = begin; i < end; ++i) {
                        Piece& piece = pieces[i];
                        piece.digest = Sha256(piece.bytes);
                        piece.non_finite = HasNonFinite(piece.bytes, piece.dtype);
                      }
                    });
  std::string text =
      absl::StrCat("reprise weights v1\nconfig ", HexDigest(Sha256(config_json)), "\n");
  if (format_ == WeightFormat::kFp8) absl::StrAppend(&text, "format e4m3 per output\n");
  size_t next = 0;
  for (const auto& [key, tensor] : tensors_) {
    absl::StrAppend(&text, CheckpointNames(SpecOf(key.second), key.first).front(), " ",
                    tensor->dtype_name, " ", absl::StrJoin(tensor->shape, ","));
    for (; next < pieces.size() && pieces[next].tensor == tensor; ++next) {
      if (pieces[next].non_finite) {
        return absl::DataLossError(
            absl::StrCat(tensor->file, ": tensor ", tensor->name, " holds an infinity or a NaN"));
      }
      absl::StrAppend(&text, " ", HexDigest(pieces[next].digest));
    }
    text += '\n';
  }
  return HexDigest(Sha256(text));
}

size_t Weights::BytesAtMost(const RecurrentGemmaConfig& config, kernels::Device device) const {
  // Tensors that are packed together are widened if their dtypes differ.
  size_t dtypes = 0;
  DType dtype = DType::kF32;
  std::set<std::string> names;
  for (const auto& [key, tensor] : tensors_) {
    if (!IsMatrix(key.second) || !names.insert(tensor->dtype_name).second) continue;
    dtype = ++dtypes == 1 ? tensor->FloatDType().value_or(DType::kF32) : DType::kF32;
  }
  const auto packed = [&](const TensorView& tensor, WeightId id) {
    kernels::PackedMatrix::Source source;
    source.dtype = dtype;
    source.e4m3 = format_ == WeightFormat::kFp8 && MayBeFp8(id);
    const bool blocked = tensor.shape.size() == 3;
    source.blocks = static_cast<int>(blocked ? tensor.shape[0] : 1);
    source.k = static_cast<int>(tensor.shape[1]);
    source.n = static_cast<int>(tensor.shape[blocked ? 2 : 0]);
    return kernels::PackedMatrix::PackedBytes(source, device);
  };
  size_t bytes = 0;
  for (const auto& [key, tensor] : tensors_) {
    if (key.second == WeightId::kEmbedding) {
      bytes += tensor->bytes.size();
      if (config.tie_word_embeddings) bytes += packed(*tensor, key.second);
    } else if (IsMatrix(key.second)) {
      bytes += packed(*tensor, key.second);
    } else {
      bytes += tensor->num_elements() * sizeof(float);
    }
  }
  return bytes;
}

int64_t Weights::num_parameters() const {
  int64_t parameters = 0;
  for (const auto& [key, tensor] : tensors_) parameters += tensor->num_elements();
  return parameters;
}

std::string Weights::dtype() const {
  if (format_ == WeightFormat::kFp8) return kernels::DTypeName(DType::kE4M3);
  std::map<std::string, size_t> bytes;
  for (const auto& [key, tensor] : tensors_) bytes[tensor->dtype_name] += tensor->bytes.size();
  const auto most = std::max_element(
      bytes.begin(), bytes.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  if (most == bytes.end() || most->first == "F32") return "f32";
  return most->first == "BF16" ? "bf16" : "f16";
}

}  // namespace reprise::models
