// What a model remembers of a sequence: the ordered list of its state tensors.
#ifndef REPRISE_MODELS_STATE_LAYOUT_H_
#define REPRISE_MODELS_STATE_LAYOUT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace reprise::models {

// Role names are frozen: they are hashed into the layout digest and written into snapshots.
enum class StateRole { kRgLru, kConvTail, kWindowKeys, kWindowValues };
const char* StateRoleName(StateRole role);  // "rg_lru", "conv_tail", "kv_window.k", "kv_window.v"

struct StateTensor {
  int layer = 0;
  StateRole role = StateRole::kRgLru;
  kernels::DType dtype = kernels::DType::kF32;
  std::vector<int64_t> shape;  // of one sequence, outermost first
  size_t offset = 0;           // bytes, in the exported image of one sequence
  size_t bytes = 0;

  std::string Name() const;  // "layers.3.kv_window.k", the part's name in a snapshot
};

// Names the order of operations that produced a state ("cpu-grid64-v1", ...); a state moves on
// bit-exactly only under the same id. Written into snapshots.
std::string NumericsId(kernels::Device device);

// Immutable once built.
class StateLayout {
 public:
  explicit StateLayout(kernels::Device device = kernels::Device::kCpu)
      : device_(device), numerics_id_(NumericsId(device)) {}

  kernels::Device device() const { return device_; }

  // Appends a tensor; offsets follow the order of the calls.
  void Add(int layer, StateRole role, kernels::DType dtype, std::vector<int64_t> shape);

  const std::vector<StateTensor>& tensors() const { return tensors_; }
  size_t bytes() const { return bytes_; }  // of one sequence
  const std::string& numerics_id() const { return numerics_id_; }
  // Hex SHA-256 over names, dtypes and shapes in order, the grid size and the numerics id. Two
  // layouts with one digest hold the same bytes with the same meaning.
  std::string Digest() const;

 private:
  kernels::Device device_;
  std::string numerics_id_;
  std::vector<StateTensor> tensors_;
  size_t bytes_ = 0;
};

}  // namespace reprise::models

#endif  // REPRISE_MODELS_STATE_LAYOUT_H_
