#include "models/state_layout.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/hash.h"

namespace reprise::models {
namespace {

// Vector width changes no bit, but without fused multiply-add each product is rounded twice.
const char* CpuName() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? "cpu" : "cpu-nofma";
#elif defined(__aarch64__)
  return "cpu-arm64";
#else
  return "cpu-other";
#endif
}

}  // namespace

const char* StateRoleName(StateRole role) {
  switch (role) {
    case StateRole::kRgLru:
      return "rg_lru";
    case StateRole::kConvTail:
      return "conv_tail";
    case StateRole::kWindowKeys:
      return "kv_window.k";
    case StateRole::kWindowValues:
      return "kv_window.v";
  }
  return "unknown";
}

std::string StateTensor::Name() const {
  return absl::StrCat("layers.", layer, ".", StateRoleName(role));
}

void StateLayout::Add(int layer, StateRole role, kernels::DType dtype, std::vector<int64_t> shape) {
  StateTensor tensor;
  tensor.layer = layer;
  tensor.role = role;
  tensor.dtype = dtype;
  tensor.offset = bytes_;
  tensor.bytes = kernels::DTypeBytes(dtype);
  for (const int64_t dim : shape) tensor.bytes *= static_cast<size_t>(dim);
  tensor.shape = std::move(shape);
  bytes_ += tensor.bytes;
  tensors_.push_back(std::move(tensor));
}

std::string StateLayout::Digest() const {
  // The dtype goes in as its frozen number.
  std::string text = absl::StrCat("reprise state layout v1\ngrid ", kernels::kGridTokens,
                                  "\nnumerics ", numerics_id_, "\n");
  for (const StateTensor& tensor : tensors_) {
    absl::StrAppend(&text, tensor.Name(), " ", static_cast<int>(tensor.dtype), " ",
                    absl::StrJoin(tensor.shape, ","), "\n");
  }
  return HexDigest(Sha256(text));
}

std::string NumericsId(kernels::Device device) {
  // The number after "v" rises with every change of that device's kernels that changes bits.
  const bool cuda = device == kernels::Device::kCuda;
  return absl::StrCat(cuda ? "cuda-sm90" : CpuName(), "-grid", kernels::kGridTokens, "-v",
                      cuda ? 2 : 1);
}

}  // namespace reprise::models
