// The flags that `generate` and `chat` share, and the request that they make.
#ifndef REPRISE_CLIENTS_CLI_REQUEST_FLAGS_H_
#define REPRISE_CLIENTS_CLI_REQUEST_FLAGS_H_

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "reprise/v1/generation.pb.h"

namespace reprise::cli {

struct RequestFlags {
  std::string model;
  std::optional<int> max_tokens;
  float temperature = 0;
  int top_k = 0;
  std::optional<float> top_p;
  float min_p = 0;
  std::optional<float> repetition_penalty;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  std::vector<std::string> logit_bias;  // "ID=VALUE"
  std::optional<uint64_t> seed;
  std::vector<std::string> stop_strings;
  std::vector<int> stop_tokens;
  bool ignore_eos = false;
  std::string durability;
  int checkpoint_tokens = 0;
  std::optional<int> sync_replicas;
  std::string priority;
  bool no_bos = false;

  void AddTo(CLI::App& app);
  // Ranges are the server's to check: it knows them and names the field.
  absl::Status Fill(v1::GenerateRequest& request) const;
};

}  // namespace reprise::cli

#endif  // REPRISE_CLIENTS_CLI_REQUEST_FLAGS_H_
