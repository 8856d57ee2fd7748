// reprise tokenize and detokenize.
#include <unistd.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "clients/cli/commands.h"

namespace reprise::cli {
namespace {

using Stub = v1::ModelService::StubInterface;

struct TokenizeFlags {
  std::string model;
  std::optional<std::string> text;
  std::string file;
  bool bos = false;
  bool special = false;
  bool ids_only = false;
};

absl::Status RunTokenize(Env& env, const TokenizeFlags& flags) {
  v1::TokenizeRequest request;
  request.set_model(flags.model);
  request.set_add_bos(flags.bos);
  request.set_parse_special(flags.special);
  if (flags.text.has_value() && *flags.text != "-") {
    request.set_text(*flags.text);
  } else {
    ASSIGN_OR_RETURN(std::string text, ReadInput(flags.file.empty() ? "-" : flags.file));
    request.set_text(std::move(text));
  }
  RETURN_IF_ERROR(env.Connect());
  ASSIGN_OR_RETURN(v1::TokenizeResponse response, env.Call(env.models(), &Stub::Tokenize, request));
  if (env.options.json) {
    env.PrintJson(ToJson(response));
    return absl::OkStatus();
  }
  if (flags.ids_only) {
    env.Print(absl::StrCat(absl::StrJoin(response.ids(), " "), "\n"));
    return absl::OkStatus();
  }
  std::string out;
  for (int i = 0; i < response.ids_size(); ++i) {
    absl::StrAppendFormat(&out, "%7d  %s\n", response.ids(i),
                          i < response.tokens_size() ? Quoted(response.tokens(i)) : "");
  }
  env.Print(out);
  return absl::OkStatus();
}

struct DetokenizeFlags {
  std::string model;
  std::vector<int> ids;
};

absl::Status RunDetokenize(Env& env, const DetokenizeFlags& flags) {
  v1::DetokenizeRequest request;
  request.set_model(flags.model);
  request.mutable_ids()->Add(flags.ids.begin(), flags.ids.end());
  if (flags.ids.empty()) {
    ASSIGN_OR_RETURN(const std::string input, ReadInput("-"));
    for (absl::string_view word :
         absl::StrSplit(input, absl::ByAnyChar(" ,\t\r\n"), absl::SkipEmpty())) {
      int32_t id = 0;
      if (!absl::SimpleAtoi(word, &id)) {
        return UsageError(absl::StrCat("\"", word, "\" is no token id"));
      }
      request.add_ids(id);
    }
  }
  RETURN_IF_ERROR(env.Connect());
  ASSIGN_OR_RETURN(v1::DetokenizeResponse response,
                   env.Call(env.models(), &Stub::Detokenize, request));
  if (env.options.json) {
    env.PrintJson(ToJson(response));
  } else {
    env.Print(response.text());
    if (::isatty(STDOUT_FILENO)) env.Print("\n");
  }
  return absl::OkStatus();
}

}  // namespace

void AddTokenizeCommands(CLI::App& app, Env& env) {
  auto flags = std::make_shared<TokenizeFlags>();
  CLI::App* tokenize = app.add_subcommand("tokenize", "A text's token ids");
  tokenize->add_option("text", flags->text, "Default, or -: standard input");
  tokenize->add_option("-f,--file", flags->file, "Read the text from a file");
  tokenize->add_option("-m,--model", flags->model, "Name of the model");
  tokenize->add_flag("--bos", flags->bos, "Put the beginning-of-sequence token first");
  tokenize->add_flag("--special", flags->special, "Read the text of control tokens as such");
  tokenize->add_flag("--ids", flags->ids_only, "Only the ids, on one line");
  tokenize->callback(
      [flags, &env] { env.run = [flags, &env] { return RunTokenize(env, *flags); }; });

  auto detokenize_flags = std::make_shared<DetokenizeFlags>();
  CLI::App* detokenize = app.add_subcommand("detokenize", "The text of token ids");
  detokenize->add_option("ids", detokenize_flags->ids, "Default: from standard input")
      ->delimiter(',');
  detokenize->add_option("-m,--model", detokenize_flags->model, "Name of the model");
  detokenize->callback([detokenize_flags, &env] {
    env.run = [detokenize_flags, &env] { return RunDetokenize(env, *detokenize_flags); };
  });
}

}  // namespace reprise::cli
