// Drives the tokenizer library for test_against_reference.py.
//
//   tokenizer_tool FOLDER < requests > replies
//
// The first reply says how loading went: {"vocab_size": n, "load_seconds": s} or {"error": "..."}.
// Then each line of input is a request and gives one line:
//   {"text": "...", "add_bos": false, "parse_special": false} -> {"ids": [...], "seconds": s}
//   {"ids": [...]} -> {"text": Decode, "streamed": Detokenizer, "seconds": s}
#include <chrono>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/status_macros.h"
#include "models/tokenizer/detokenizer.h"
#include "models/tokenizer/tokenizer.h"

namespace reprise::models {
namespace {

using nlohmann::json;

double Seconds(std::chrono::steady_clock::time_point since) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - since).count();
}

absl::StatusOr<json> Answer(const Tokenizer& tokenizer, const json& request) {
  const auto begin = std::chrono::steady_clock::now();
  if (request.contains("text")) {
    EncodeOptions options;
    options.add_bos = request.value("add_bos", false);
    options.parse_special = request.value("parse_special", false);
    const std::string& text = request["text"].get_ref<const std::string&>();
    ASSIGN_OR_RETURN(const std::vector<int32_t> ids, tokenizer.Encode(text, options));
    return json{{"ids", ids}, {"seconds", Seconds(begin)}};
  }
  const std::vector<int32_t> ids = request.at("ids").get<std::vector<int32_t>>();
  ASSIGN_OR_RETURN(const std::string text, tokenizer.Decode(ids));
  const double seconds = Seconds(begin);
  Detokenizer detokenizer(&tokenizer, TextStart::kBeginning);
  std::string streamed;
  for (const int32_t id : ids) {
    ASSIGN_OR_RETURN(const std::string part, detokenizer.Append(id));
    streamed += part;
  }
  streamed += detokenizer.Flush();
  return json{{"text", text}, {"streamed", streamed}, {"seconds", seconds}};
}

int Run(const std::string& folder) {
  const auto begin = std::chrono::steady_clock::now();
  const auto tokenizer = LoadTokenizer(folder);
  if (!tokenizer.ok()) {
    std::cout << json{{"error", tokenizer.status().ToString()}} << std::endl;
    return 1;
  }
  std::cout << json{{"vocab_size", (*tokenizer)->vocab_size()}, {"load_seconds", Seconds(begin)}}
            << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    const absl::StatusOr<json> answer = Answer(**tokenizer, json::parse(line));
    std::cout << (answer.ok() ? *answer : json{{"error", answer.status().ToString()}}) << std::endl;
  }
  return 0;
}

}  // namespace
}  // namespace reprise::models

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: tokenizer_tool FOLDER\n";
    return 2;
  }
  return reprise::models::Run(argv[1]);
}
