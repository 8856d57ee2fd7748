#include "tests/models/testing/safetensors_writer.h"

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

namespace reprise::models::testing {
namespace {

uint16_t ToBf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  bits += 0x7fff + (bits >> 16 & 1);
  return static_cast<uint16_t>(bits >> 16);
}

// For finite values within the range of halves.
uint16_t ToF16(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const float magnitude = std::fabs(value);
  if (magnitude < 0x1p-14f) {
    return sign | static_cast<uint16_t>(std::nearbyint(magnitude * 0x1p24f));
  }
  int exponent;
  const float fraction = std::frexp(magnitude, &exponent);  // [0.5, 1)
  const int mantissa = static_cast<int>(std::nearbyint((fraction * 2 - 1) * 1024));
  // A mantissa rounded up to 1024 carries into the exponent by itself.
  return static_cast<uint16_t>(sign + ((exponent - 1 + 15) << 10) + mantissa);
}

}  // namespace

std::string SafetensorsBytes(const std::string& header, const std::string& data) {
  std::string bytes(8, '\0');
  const uint64_t length = header.size();
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<char>(length >> (8 * i) & 0xff);
  return bytes + header + data;
}

std::string SafetensorsBytes(const std::vector<TensorToWrite>& tensors) {
  nlohmann::json header = {{"__metadata__", {{"format", "pt"}}}};
  std::string data;
  for (const TensorToWrite& tensor : tensors) {
    header[tensor.name] = {{"dtype", tensor.dtype},
                           {"shape", tensor.shape},
                           {"data_offsets", {data.size(), data.size() + tensor.bytes.size()}}};
    data += tensor.bytes;
  }
  return SafetensorsBytes(header.dump(), data);
}

std::string Encode(const std::vector<float>& values, const std::string& dtype) {
  if (dtype == "F32") {
    return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
  }
  std::string bytes;
  for (const float value : values) {
    const uint16_t half = dtype == "BF16" ? ToBf16(value) : ToF16(value);
    bytes.append(reinterpret_cast<const char*>(&half), sizeof(half));
  }
  return bytes;
}

}  // namespace reprise::models::testing
