// Reader of safetensors checkpoints: one file, or shards named by model.safetensors.index.json.
//
// The format (version 0.x of huggingface/safetensors): 8 bytes little-endian header length, that
// many bytes of JSON {name: {dtype, shape, data_offsets}, "__metadata__": {string: string}}, then
// the data, which the tensors' [begin, end) ranges must cover without holes or overlaps. All of it
// is checked here before any byte of data is touched.
#ifndef REPRISE_MODELS_SAFETENSORS_H_
#define REPRISE_MODELS_SAFETENSORS_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/mapped_file.h"
#include "kernels/kernels.h"

namespace reprise::models {

// Borrowed: lives as long as the file or checkpoint that gave it. `bytes` may be unaligned.
struct TensorView {
  std::string file;  // for messages
  std::string name;
  std::string dtype_name;  // as written: "BF16"
  std::vector<int64_t> shape;
  std::string_view bytes;

  int64_t num_elements() const;
  // INVALID_ARGUMENT unless the dtype is one of F32, BF16, F16.
  absl::StatusOr<kernels::DType> FloatDType() const;
  std::string ShapeString() const;  // "[2, 3]"
};

// Immutable once opened; thread-safe.
class SafetensorsFile {
 public:
  static constexpr size_t kMaxHeaderBytes = size_t{16} << 20;

  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);
  // `bytes` is borrowed and `name` stands in messages.
  static absl::StatusOr<SafetensorsFile> FromBytes(std::string_view bytes, const std::string& name);

  // By name, in the order of names.
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }

 private:
  MappedFile file_;
  std::map<std::string, TensorView> tensors_;
};

// All tensors of a folder. Immutable once opened; thread-safe.
class Checkpoint {
 public:
  // Takes model.safetensors, or else the shards of model.safetensors.index.json. NOT_FOUND when the
  // folder has neither, or lacks a shard. Every tensor of a shard is seen, also one that the index
  // leaves out; a tensor that the index promises and no shard holds is an error.
  static absl::StatusOr<Checkpoint> Open(const std::string& directory);

  // Null when there is none of that name.
  const TensorView* Find(const std::string& name) const;
  std::vector<std::string> names() const;
  // The file (or index) to blame for a missing tensor.
  const std::string& source() const { return source_; }

 private:
  absl::Status Add(SafetensorsFile file);

  std::string source_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, const TensorView*> tensors_;
};

}  // namespace reprise::models

#endif  // REPRISE_MODELS_SAFETENSORS_H_
