// Any bytes are either refused or give tensors that lie inside the file, without overlaps.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "models/json_reader.h"
#include "models/recurrent_gemma_config.h"
#include "models/safetensors.h"

namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace reprise::models;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto file = SafetensorsFile::FromBytes(bytes, "fuzz");
  if (file.ok()) {
    size_t covered = 0;
    for (const auto& [name, tensor] : file->tensors()) {
      Require(name == tensor.name);
      Require(tensor.bytes.data() >= bytes.data());
      Require(tensor.bytes.data() + tensor.bytes.size() <= bytes.data() + bytes.size());
      covered += tensor.bytes.size();
      const auto dtype = tensor.FloatDType();
      if (dtype.ok()) {
        Require(static_cast<uint64_t>(tensor.num_elements()) *
                    reprise::kernels::DTypeBytes(*dtype) ==
                tensor.bytes.size());
      }
    }
    Require(covered <= size);
  } else {
    Require(file.status().message().size() < 1000);
  }
  // The same bytes as a config: parsed under limits, and sizes stay in range.
  const auto json = ParseJsonObject(bytes);
  if (!json.ok()) return 0;
  const auto config = RecurrentGemmaConfig::FromJson(*json);
  if (!config.ok()) return 0;
  Require(config->hidden_size > 0 && config->lru_block() > 0 && config->head_dim > 0);
  Require(config->rotary_dims % 2 == 0 && config->rotary_dims <= config->head_dim);
  Require(config->blocks.size() == static_cast<size_t>(config->num_layers));
  return 0;
}
