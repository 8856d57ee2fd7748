// reprise generate: one prompt, one streamed answer, or the score of a text.
#include <unistd.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "clients/cli/commands.h"
#include "clients/cli/names.h"
#include "clients/cli/request_flags.h"
#include "clients/cli/score.h"
#include "clients/cli/stream.h"

namespace reprise::cli {
namespace {

struct GenerateFlags {
  RequestFlags request;
  std::optional<std::string> prompt;
  std::string file;
  std::vector<int> tokens;
  bool go_on = false;
  std::string session;
  uint64_t session_version = 0;
  std::string request_id;
  bool logprobs = false;
  int top_logprobs = 0;
  bool score = false;
  bool usage = false;
  int n = 0;
  int best_of = 0;
  bool keep_partial = false;

  bool several() const { return n > 1 || best_of > 1; }
};

absl::Status FillPrompt(const GenerateFlags& flags, v1::GenerateRequest& request) {
  const int sources =
      flags.prompt.has_value() + !flags.file.empty() + !flags.tokens.empty() + flags.go_on;
  if (sources > 1) return UsageError("give one of PROMPT, --file, --tokens and --continue");
  if (!flags.tokens.empty()) {
    request.mutable_tokens()->mutable_ids()->Add(flags.tokens.begin(), flags.tokens.end());
    return absl::OkStatus();
  }
  if (flags.go_on) {
    if (flags.session.empty()) return UsageError("--continue needs --session");
    return absl::OkStatus();
  }
  if (flags.prompt.has_value() && *flags.prompt != "-") {
    request.set_text(*flags.prompt);
    return absl::OkStatus();
  }
  if (sources == 0 && ::isatty(STDIN_FILENO)) {
    return UsageError("give a PROMPT, --file FILE, or text on standard input");
  }
  ASSIGN_OR_RETURN(std::string text, ReadInput(flags.file.empty() ? "-" : flags.file));
  // An empty input with a session means: go on from where it stands.
  if (!text.empty() || flags.session.empty()) request.set_text(std::move(text));
  return absl::OkStatus();
}

// One line per token: id, log-probability, text, and the alternatives.
std::string LogprobLine(const v1::TokenLogprob& token) {
  std::string line =
      absl::StrFormat("%7d %9.4f  %s", token.id(), token.logprob(), Quoted(token.token()));
  for (const v1::TokenLogprob& top : token.top()) {
    absl::StrAppendFormat(&line, "  %s %.4f", Quoted(top.token()), top.logprob());
  }
  return line + "\n";
}

void PrintTokens(const Env& env, const v1::Tokens& tokens) {
  if (env.options.json) {
    Json line = {{"event", "tokens"}};
    line.update(ToJson(tokens));
    env.Print(absl::StrCat(JsonLine(line), "\n"));
  } else if (tokens.logprobs_size() > 0) {
    for (const v1::TokenLogprob& token : tokens.logprobs()) env.Print(LogprobLine(token));
  } else if (!tokens.text().empty()) {
    env.Print(tokens.text());
  }
}

void PrintFinished(const Env& env, const v1::Finished& finished, bool text_mode) {
  if (env.options.json) {
    Json line = {{"event", "finished"}};
    line.update(ToJson(finished));
    env.PrintJson(std::move(line));
    return;
  }
  if (text_mode) env.Print(finished.text());
  // A file gets the exact text, a person a prompt on its own line.
  if (text_mode && ::isatty(STDOUT_FILENO)) env.Print("\n");
}

void PrintScore(const Env& env, const v1::Finished& finished, bool each_token) {
  const Score score = ScoreOf(finished);
  if (env.options.json) {
    Json line = {{"event", "score"}};
    line.update(ScoreJson(score));
    line["prompt_logprobs"] = ToJson(finished)["prompt_logprobs"];
    env.PrintJson(std::move(line));
    return;
  }
  if (each_token) {
    for (const v1::TokenLogprob& token : finished.prompt_logprobs()) env.Print(LogprobLine(token));
  }
  env.Print(ScoreText(score));
}

// Several answers: each under its number, when all are there.
absl::Status RunSeveral(Env& env, const GenerateFlags& flags, const v1::GenerateRequest& request) {
  std::map<int, std::string> texts;
  const auto on_tokens = [&](const v1::Tokens& tokens) {
    if (env.options.json) {
      PrintTokens(env, tokens);
      return;
    }
    std::string& text = texts[tokens.choice()];
    for (const v1::TokenLogprob& token : tokens.logprobs()) text += LogprobLine(token);
    if (tokens.logprobs_size() == 0) text += tokens.text();
  };
  ASSIGN_OR_RETURN(const std::vector<v1::Finished> all, RunChoices(env, request, on_tokens));
  for (const v1::Finished& finished : all) {
    if (env.options.json) {
      PrintFinished(env, finished, false);
    } else {
      const bool lines = flags.logprobs || flags.top_logprobs > 0;
      std::string text = texts[finished.choice()] + (lines ? "" : finished.text());
      if (text.empty() || text.back() != '\n') text += '\n';
      env.Print(absl::StrCat("--- choice ", finished.choice(), "\n", text));
    }
    if (flags.usage) {
      env.Note(absl::StrCat("choice ", finished.choice(), ": ", UsageLine(finished)));
    }
  }
  return absl::OkStatus();
}

absl::Status RunGenerate(Env& env, const GenerateFlags& flags) {
  v1::GenerateRequest request;
  RETURN_IF_ERROR(flags.request.Fill(request));
  RETURN_IF_ERROR(FillPrompt(flags, request));
  request.set_session(SessionName(flags.session));
  request.set_session_version(flags.session_version);
  request.set_request_id(flags.request_id);
  request.mutable_output()->set_logprobs(flags.logprobs);
  request.mutable_output()->set_top_logprobs(flags.top_logprobs);
  request.set_n(flags.n);
  request.set_best_of(flags.best_of);
  request.set_keep_partial(flags.keep_partial);
  if (flags.score && flags.several()) return UsageError("--score goes with one answer only");
  if (flags.score) {
    request.mutable_output()->set_prompt_logprobs(true);
    if (!flags.request.max_tokens.has_value()) request.mutable_stop()->set_max_tokens(0);
  }
  RETURN_IF_ERROR(env.Connect());
  if (flags.several()) return RunSeveral(env, flags, request);

  bool open_line = false;  // text without a newline is on the terminal
  const auto on_tokens = [&](const v1::Tokens& tokens) {
    PrintTokens(env, tokens);
    if (!tokens.text().empty()) open_line = tokens.text().back() != '\n';
  };
  const absl::StatusOr<v1::Finished> finished = RunStream(env, request, on_tokens);
  if (!finished.ok()) {
    if (open_line && !env.options.json && ::isatty(STDOUT_FILENO)) env.Print("\n");
    return finished.status();
  }
  const bool text_mode = !flags.logprobs && flags.top_logprobs == 0 && !flags.score;
  if (flags.score) PrintScore(env, *finished, flags.logprobs || flags.top_logprobs > 0);
  if (!flags.score || env.options.json) PrintFinished(env, *finished, text_mode);
  if (flags.usage) env.Note(UsageLine(*finished));
  return absl::OkStatus();
}

}  // namespace

void AddGenerateCommand(CLI::App& app, Env& env) {
  CLI::App* command = app.add_subcommand("generate", "Stream the continuation of a prompt");
  auto flags = std::make_shared<GenerateFlags>();
  command->add_option("prompt", flags->prompt, "The text to go on from; - reads standard input");
  command->add_option("-f,--file", flags->file, "Read the prompt from a file");
  command->add_option("--tokens", flags->tokens, "Token ids as the prompt, separated by commas")
      ->delimiter(',')
      ->allow_extra_args(false);
  command->add_flag("--continue", flags->go_on, "No prompt: go on from where the session stands");
  command->add_option("--session", flags->session, "Append prompt and answer to this session");
  command->add_option("--session-version", flags->session_version,
                      "Refuse unless the session has this version");
  command->add_option("--request-id", flags->request_id,
                      "Unique per turn: committing it twice changes the session once");
  flags->request.AddTo(*command);
  command->add_flag("--logprobs", flags->logprobs, "Print each token with its log-probability");
  command->add_option("--top-logprobs", flags->top_logprobs,
                      "The n most probable tokens at each position too");
  command->add_flag("--score", flags->score,
                    "Print the prompt's bits per token and per byte; generates nothing unless "
                    "--max-tokens is given");
  command->add_option("--n", flags->n,
                      "Answers to the one prompt, which is computed once; at most 128");
  command->add_option("--best-of", flags->best_of,
                      "Generate so many answers and print the n most probable ones, best first");
  command->add_flag("--keep-partial", flags->keep_partial,
                    "Interrupted within the prompt, the session keeps what was computed; the same "
                    "--request-id goes on from there");
  command->add_flag("--usage", flags->usage, "Say on stderr what the answer cost");
  command->callback(
      [flags, &env] { env.run = [flags, &env] { return RunGenerate(env, *flags); }; });
}

}  // namespace reprise::cli
