// Writes safetensors bytes, well-formed ones from tensors or hostile ones from a header by hand.
#ifndef REPRISE_TESTS_MODELS_TESTING_SAFETENSORS_WRITER_H_
#define REPRISE_TESTS_MODELS_TESTING_SAFETENSORS_WRITER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace reprise::models::testing {

struct TensorToWrite {
  std::string name;
  std::string dtype;  // "F32", "BF16", ...
  std::vector<int64_t> shape;
  std::string bytes;
};

std::string SafetensorsBytes(const std::vector<TensorToWrite>& tensors);

// The length prefix, `header` as it stands, and `data`.
std::string SafetensorsBytes(const std::string& header, const std::string& data);

// Rounds float values to the dtype; `dtype` is one of F32, BF16, F16.
std::string Encode(const std::vector<float>& values, const std::string& dtype);

}  // namespace reprise::models::testing

#endif  // REPRISE_TESTS_MODELS_TESTING_SAFETENSORS_WRITER_H_
