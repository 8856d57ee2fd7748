#include "models/safetensors.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <set>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "base/status_macros.h"
#include "models/json_reader.h"

namespace reprise::models {
namespace {

using nlohmann::json;

constexpr size_t kLengthBytes = 8;
constexpr size_t kMaxRank = 16;
constexpr const char* kMetadataKey = "__metadata__";

struct DTypeRow {
  const char* name;
  int bytes;
};
// Types of whole bytes. Others (F4, F6_E2M3 and what is yet to come) are kept by name, unsized.
constexpr DTypeRow kDTypes[] = {
    {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"F8_E8M0", 1},
    {"U16", 2},  {"I16", 2}, {"F16", 2}, {"BF16", 2},    {"U32", 4},     {"I32", 4},
    {"F32", 4},  {"U64", 8}, {"I64", 8}, {"F64", 8},     {"C64", 8},
};

// 0 for a type that is not in the table.
int ElementBytes(const std::string& dtype) {
  for (const DTypeRow& row : kDTypes) {
    if (dtype == row.name) return row.bytes;
  }
  return 0;
}

// Names come from the file: only a printable, short form goes into messages.
std::string Quoted(const std::string& name) { return Shown(json(name)); }

absl::StatusOr<uint64_t> AsUnsigned(const json& value, absl::string_view what) {
  if (!value.is_number_unsigned()) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, ": expected an integer >= 0, found ", Shown(value)));
  }
  return value.get<uint64_t>();
}

struct Range {
  uint64_t begin = 0;
  uint64_t end = 0;
};

// One entry of the header; the caller adds file and name to its errors.
absl::StatusOr<Range> ParseEntry(const json& entry, uint64_t data_bytes, TensorView& tensor) {
  if (!entry.is_object()) return absl::InvalidArgumentError("entry is not an object");
  ASSIGN_OR_RETURN(auto dtype, ReadString(entry, "dtype"));
  if (!dtype.has_value()) return absl::InvalidArgumentError("dtype is missing");
  tensor.dtype_name = *std::move(dtype);

  const auto shape = entry.find("shape");
  if (shape == entry.end() || !shape->is_array() || shape->size() > kMaxRank) {
    return absl::InvalidArgumentError(
        absl::StrCat("shape: expected an array of at most ", kMaxRank, " integers"));
  }
  uint64_t elements = 1;
  for (const json& dim : *shape) {
    ASSIGN_OR_RETURN(const uint64_t size, AsUnsigned(dim, "shape"));
    if (size > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) ||
        __builtin_mul_overflow(elements, size, &elements)) {
      return absl::InvalidArgumentError("shape: the number of elements overflows");
    }
    tensor.shape.push_back(static_cast<int64_t>(size));
  }
  if (elements > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return absl::InvalidArgumentError("shape: the number of elements overflows");
  }

  const auto offsets = entry.find("data_offsets");
  if (offsets == entry.end() || !offsets->is_array() || offsets->size() != 2) {
    return absl::InvalidArgumentError("data_offsets: expected [begin, end]");
  }
  Range range;
  ASSIGN_OR_RETURN(range.begin, AsUnsigned((*offsets)[0], "data_offsets"));
  ASSIGN_OR_RETURN(range.end, AsUnsigned((*offsets)[1], "data_offsets"));
  if (range.begin > range.end || range.end > data_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("data_offsets [", range.begin, ", ", range.end,
                                                   "] leave the data of ", data_bytes, " bytes"));
  }
  const int element_bytes = ElementBytes(tensor.dtype_name);
  uint64_t expected = 0;
  if (element_bytes != 0 &&
      (__builtin_mul_overflow(elements, static_cast<uint64_t>(element_bytes), &expected) ||
       expected != range.end - range.begin)) {
    return absl::InvalidArgumentError(absl::StrCat("data_offsets hold ", range.end - range.begin,
                                                   " bytes, but ", Quoted(tensor.dtype_name), " ",
                                                   tensor.ShapeString(), " needs another number"));
  }
  return range;
}

absl::Status CheckMetadata(const json& metadata) {
  if (!metadata.is_object()) {
    return absl::InvalidArgumentError("__metadata__ is not an object");
  }
  for (const auto& [key, value] : metadata.items()) {
    if (!value.is_string()) {
      return absl::InvalidArgumentError(
          absl::StrCat("__metadata__: the value of ", Quoted(key), " is not a string"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::map<std::string, TensorView>> ParseTensors(std::string_view bytes,
                                                               const std::string& file) {
  if (bytes.size() < kLengthBytes) {
    return absl::DataLossError(absl::StrCat("file of ", bytes.size(), " bytes has no header"));
  }
  uint64_t header_bytes = 0;
  for (size_t i = kLengthBytes; i-- > 0;) {
    header_bytes = header_bytes << 8 | static_cast<uint8_t>(bytes[i]);
  }
  if (header_bytes > SafetensorsFile::kMaxHeaderBytes) {
    return absl::InvalidArgumentError(absl::StrCat("header of ", header_bytes,
                                                   " bytes exceeds the limit of ",
                                                   SafetensorsFile::kMaxHeaderBytes));
  }
  if (header_bytes > bytes.size() - kLengthBytes) {
    return absl::DataLossError(
        absl::StrCat("header of ", header_bytes, " bytes goes beyond the file of ", bytes.size()));
  }
  const std::string_view header = bytes.substr(kLengthBytes, header_bytes);
  const std::string_view data = bytes.substr(kLengthBytes + header_bytes);
  if (header.empty() || header.front() != '{') {
    return absl::InvalidArgumentError("header does not begin with '{'");
  }
  // Depth 3: the root, an entry, its shape.
  ASSIGN_OR_RETURN(const json root, ParseJsonObject(header, {SafetensorsFile::kMaxHeaderBytes, 8}));

  std::map<std::string, TensorView> tensors;
  std::vector<std::pair<Range, const std::string*>> ranges;
  for (const auto& [name, entry] : root.items()) {
    if (name == kMetadataKey) {
      RETURN_IF_ERROR(CheckMetadata(entry));
      continue;
    }
    TensorView tensor;
    tensor.file = file;
    tensor.name = name;
    const absl::StatusOr<Range> range = ParseEntry(entry, data.size(), tensor);
    if (!range.ok()) return Prefixed(range.status(), absl::StrCat("tensor ", Quoted(name)));
    tensor.bytes = data.substr(range->begin, range->end - range->begin);
    const auto it = tensors.emplace(name, std::move(tensor)).first;
    ranges.emplace_back(*range, &it->first);
  }

  std::sort(ranges.begin(), ranges.end(), [](const auto& a, const auto& b) {
    return std::pair(a.first.begin, a.first.end) < std::pair(b.first.begin, b.first.end);
  });
  uint64_t covered = 0;
  for (const auto& [range, name] : ranges) {
    if (range.begin != covered) {
      return absl::InvalidArgumentError(absl::StrCat(
          "tensor ", Quoted(*name), ": begins at byte ", range.begin, " of the data, which is ",
          range.begin < covered ? "inside its neighbour" : "behind a hole", " (expected ", covered,
          ")"));
    }
    covered = range.end;
  }
  if (covered != data.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("data of ", data.size(), " bytes, but tensors cover ", covered));
  }
  return tensors;
}

// A shard's name must stay in the checkpoint's folder.
bool IsPlainFileName(const std::string& name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string("/\\\0", 3)) == std::string::npos;
}

bool Exists(const std::string& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

}  // namespace

int64_t TensorView::num_elements() const {
  int64_t elements = 1;
  for (const int64_t dim : shape) elements *= dim;
  return elements;
}

std::string TensorView::ShapeString() const {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

absl::StatusOr<kernels::DType> TensorView::FloatDType() const {
  if (dtype_name == "F32") return kernels::DType::kF32;
  if (dtype_name == "BF16") return kernels::DType::kBF16;
  if (dtype_name == "F16") return kernels::DType::kF16;
  return absl::InvalidArgumentError(absl::StrCat(file, ": tensor ", Quoted(name), ": dtype ",
                                                 Quoted(dtype_name),
                                                 " is not one of F32, BF16, F16"));
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::Open(path));
  ASSIGN_OR_RETURN(SafetensorsFile file, FromBytes(mapped.bytes(), path));
  file.file_ = std::move(mapped);
  return file;
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::FromBytes(std::string_view bytes,
                                                           const std::string& name) {
  absl::StatusOr<std::map<std::string, TensorView>> tensors = ParseTensors(bytes, name);
  if (!tensors.ok()) return Prefixed(tensors.status(), name);
  SafetensorsFile file;
  file.tensors_ = *std::move(tensors);
  return file;
}

absl::Status Checkpoint::Add(SafetensorsFile file) {
  files_.push_back(std::move(file));
  for (const auto& [name, tensor] : files_.back().tensors()) {
    const auto [it, inserted] = tensors_.emplace(name, &tensor);
    if (!inserted) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", Quoted(name), " is both in ",
                                                     it->second->file, " and in ", tensor.file));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Checkpoint> Checkpoint::Open(const std::string& directory) {
  Checkpoint checkpoint;
  const std::string single = absl::StrCat(directory, "/model.safetensors");
  const std::string index_path = absl::StrCat(directory, "/model.safetensors.index.json");
  if (Exists(single)) {
    ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(single));
    checkpoint.source_ = single;
    RETURN_IF_ERROR(checkpoint.Add(std::move(file)));
    return checkpoint;
  }
  if (!Exists(index_path)) {
    return absl::NotFoundError(
        absl::StrCat(directory, ": neither model.safetensors nor model.safetensors.index.json"));
  }

  ASSIGN_OR_RETURN(const MappedFile index_file, MappedFile::Open(index_path));
  const absl::StatusOr<json> index = ParseJsonObject(index_file.bytes());
  if (!index.ok()) return Prefixed(index.status(), index_path);
  const auto map = index->find("weight_map");
  if (map == index->end() || !map->is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(index_path, ": weight_map is missing or not an object"));
  }
  std::set<std::string> shards;
  for (const auto& [name, shard] : map->items()) {
    if (!shard.is_string() || !IsPlainFileName(shard.get<std::string>())) {
      return absl::InvalidArgumentError(absl::StrCat(index_path, ": weight_map: the file of ",
                                                     Quoted(name), " is not a plain file name"));
    }
    shards.insert(shard.get<std::string>());
  }
  checkpoint.source_ = index_path;
  for (const std::string& shard : shards) {
    ASSIGN_OR_RETURN(SafetensorsFile file,
                     SafetensorsFile::Open(absl::StrCat(directory, "/", shard)));
    RETURN_IF_ERROR(checkpoint.Add(std::move(file)));
  }
  for (const auto& [name, shard] : map->items()) {
    if (checkpoint.Find(name) == nullptr) {
      return absl::DataLossError(absl::StrCat(index_path, ": tensor ", Quoted(name), " is not in ",
                                              Quoted(shard.get<std::string>())));
    }
  }
  return checkpoint;
}

const TensorView* Checkpoint::Find(const std::string& name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : it->second;
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> names;
  names.reserve(tensors_.size());
  for (const auto& [name, tensor] : tensors_) names.push_back(name);
  return names;
}

}  // namespace reprise::models
