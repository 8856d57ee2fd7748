#include <algorithm>
#include <cctype>
#include <utility>

#include "absl/strings/str_cat.h"
#include "service/flags/setters.h"
#include "service/flags/tables.h"

namespace reprise::service {
namespace {

bool IsModelName(const std::string& name) {
  return !name.empty() && name.size() <= 128 && std::all_of(name.begin(), name.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-' ||
           c == '/';
  });
}

absl::Status SetModel(const std::string& text, ServerOptions* options) {
  ModelSource source;
  if (const size_t equals = text.find('='); equals != std::string::npos) {
    source = {text.substr(0, equals), text.substr(equals + 1)};
  } else {
    // The folder's own name.
    std::string path = text;
    while (path.size() > 1 && path.back() == '/') path.pop_back();
    source = {path.substr(path.rfind('/') + 1), text};
  }
  if (!IsModelName(source.name) || source.directory.empty()) return NotAllowed();
  for (const ModelSource& other : options->models) {
    if (other.name == source.name) return NotAllowed();
  }
  options->models.push_back(std::move(source));
  return absl::OkStatus();
}

}  // namespace

std::vector<FlagSpec> ComputeFlags() {
  using O = ServerOptions;
  return {
      {"model", "", "NAME=DIRECTORY or DIRECTORY; names are letters, digits and . _ - /, used once",
       "checkpoint folder to serve, and the name that requests use", true, SetModel},
      {"device", "auto", "auto, cpu or cuda",
       "where the models run; auto is cuda where there is a GPU that this build can use", false,
       OneOf(&O::compute, &ComputeSettings::device, {"auto", "cpu", "cuda"})},
      {"weight-format", "checkpoint", "checkpoint or fp8",
       "form in which weights are kept: checkpoint as the files have them (on a GPU bf16); fp8 "
       "rounds the linear layers to 8-bit floats (e4m3) with a scale per output, for half the "
       "bytes "
       "and a little less accuracy; sessions of one form cannot be continued under the other",
       false, OneOf(&O::compute, &ComputeSettings::weight_format, {"checkpoint", "fp8"})},
      {"threads", "0", "an integer from 0 to 256", "threads that compute; 0 = one per core", false,
       Integer(&O::compute, &ComputeSettings::threads, 0, 256)},
      {"slots", "auto", "auto or an integer from 1 to 65536",
       "sequences that run at once, per model; auto is what there is memory for, at most 32 on the "
       "CPU and 512 on a GPU",
       false, IntegerOrAuto(&O::compute, &ComputeSettings::slots, 65536)},
      {"step-tokens", "auto",
       "auto or an integer from 1 to 65536, at least --slots and --prefill-chunk-tokens",
       "tokens of one step over all sequences; auto is 256 on the CPU and 4096 on a GPU", false,
       IntegerOrAuto(&O::compute, &ComputeSettings::step_tokens, 65536)},
      {"prefill-chunk-tokens", "auto", "auto or an integer from 1 to 65536",
       "prompt tokens of one sequence in one step while others wait; auto is half of a step", false,
       IntegerOrAuto(&O::compute, &ComputeSettings::prefill_chunk_tokens, 65536)},
      {"memory-bytes", "0", "an integer >= 0",
       "host memory that models and stores may come to need together, on the CPU weights and slots "
       "too; a server that would need more does not start; 0 = without limit",
       false,
       Integer(&O::compute, &ComputeSettings::memory_bytes, 0,
               std::numeric_limits<int64_t>::max())},
      {"device-memory-bytes", "auto", "auto or an integer >= 1, on a GPU only",
       "GPU memory that weights, slots and steps of all models may take together; auto is nine "
       "tenths of what is free at the start",
       false,
       IntegerOrAuto(&O::compute, &ComputeSettings::device_memory_bytes,
                     std::numeric_limits<int64_t>::max())},
  };
}

absl::Status CheckCompute(const ComputeSettings& compute) {
  const bool step_known = compute.step_tokens > 0;
  if (step_known && compute.step_tokens < compute.slots) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--step-tokens: ", compute.step_tokens, " is not allowed; allowed: at least --slots (",
        compute.slots, "), so that each sequence can move in each step"));
  }
  if (step_known && compute.prefill_chunk_tokens > compute.step_tokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--prefill-chunk-tokens: ", compute.prefill_chunk_tokens,
        " is not allowed; allowed: at most --step-tokens (", compute.step_tokens, ")"));
  }
  if (step_known && compute.step_logit_rows > compute.step_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("--step-logit-rows: ", compute.step_logit_rows,
                                                   " is not allowed; allowed: at most "
                                                   "--step-tokens (",
                                                   compute.step_tokens, ")"));
  }
  return absl::OkStatus();
}

}  // namespace reprise::service
