#include "clients/cli/request_flags.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "clients/cli/errors.h"

namespace reprise::cli {

void RequestFlags::AddTo(CLI::App& app) {
  app.add_option("-m,--model", model,
                 "Name of the model (default: the session's, or the only one)");
  app.add_option("-n,--max-tokens", max_tokens, "Most tokens to generate; 0 only feeds the prompt");
  const char* sampling = "Sampling";
  app.add_option("-t,--temperature", temperature, "0 = greedy")->group(sampling);
  app.add_option("--top-k", top_k, "Keep the k most probable tokens; 0 = all")->group(sampling);
  app.add_option("--top-p", top_p, "Keep the most probable tokens up to this sum")->group(sampling);
  app.add_option("--min-p", min_p, "Keep tokens with this share of the best one's probability")
      ->group(sampling);
  app.add_option("--repetition-penalty", repetition_penalty,
                 "Weaken tokens that occurred in prompt or answer; 1 = off")
      ->group(sampling);
  app.add_option("--presence-penalty", presence_penalty,
                 "Subtract from the logits of tokens in the answer")
      ->group(sampling);
  app.add_option("--frequency-penalty", frequency_penalty, "Subtract per occurrence in the answer")
      ->group(sampling);
  app.add_option("--logit-bias", logit_bias, "ID=VALUE, added to one token's logit; repeatable")
      ->allow_extra_args(false)
      ->group(sampling);
  app.add_option("-s,--seed", seed, "Seed of the generator; the same one repeats the answer")
      ->group(sampling);
  app.add_option("--stop", stop_strings, "End where the text contains this; repeatable")
      ->allow_extra_args(false);
  app.add_option("--stop-token", stop_tokens, "End with this token id; repeatable")
      ->allow_extra_args(false);
  app.add_flag("--ignore-eos", ignore_eos, "Go on after the model's end-of-sequence token");
  app.add_option("--durability", durability,
                 "When a turn counts as stored: async, sync, or every-n-tokens, which also makes "
                 "checkpoints")
      ->check(CLI::IsMember({"async", "sync", "every-n-tokens"}));
  app.add_option("--checkpoint-tokens", checkpoint_tokens,
                 "Tokens between two checkpoints (default: 256)");
  app.add_option("--sync-replicas", sync_replicas,
                 "Replicas of the store that must have the turn (default: the server's number)");
  app.add_option("--priority", priority,
                 "Who goes first when the server is busy: low, normal or high (default: normal)")
      ->check(CLI::IsMember({"low", "normal", "high"}));
  app.add_flag("--no-bos", no_bos, "Do not put the beginning-of-sequence token first");
}

absl::Status RequestFlags::Fill(v1::GenerateRequest& request) const {
  request.set_model(model);
  if (no_bos) request.set_add_bos(false);
  v1::SamplingParams& sampling = *request.mutable_sampling();
  sampling.set_temperature(temperature);
  sampling.set_top_k(top_k);
  if (top_p.has_value()) sampling.set_top_p(*top_p);
  sampling.set_min_p(min_p);
  if (repetition_penalty.has_value()) sampling.set_repetition_penalty(*repetition_penalty);
  sampling.set_presence_penalty(presence_penalty);
  sampling.set_frequency_penalty(frequency_penalty);
  for (const std::string& text : logit_bias) {
    const size_t equals = text.find('=');
    int32_t id = 0;
    float bias = 0;
    if (equals == text.npos || !absl::SimpleAtoi(text.substr(0, equals), &id) ||
        !absl::SimpleAtof(text.substr(equals + 1), &bias)) {
      return UsageError(absl::StrCat("--logit-bias is ID=VALUE, not \"", text, "\""));
    }
    (*sampling.mutable_logit_bias())[id] = bias;
  }
  if (seed.has_value()) sampling.set_seed(*seed);
  v1::StopConditions& stop = *request.mutable_stop();
  if (max_tokens.has_value()) stop.set_max_tokens(*max_tokens);
  for (const std::string& text : stop_strings) stop.add_stop_strings(text);
  for (int id : stop_tokens) stop.add_stop_tokens(id);
  stop.set_ignore_eos(ignore_eos);
  if (durability == "sync") request.set_durability(v1::DURABILITY_SYNC);
  if (durability == "async") request.set_durability(v1::DURABILITY_ASYNC);
  if (durability == "every-n-tokens") request.set_durability(v1::DURABILITY_EVERY_N_TOKENS);
  request.set_checkpoint_tokens(checkpoint_tokens);
  if (priority == "low") request.set_priority(v1::PRIORITY_LOW);
  if (priority == "normal") request.set_priority(v1::PRIORITY_NORMAL);
  if (priority == "high") request.set_priority(v1::PRIORITY_HIGH);
  if (sync_replicas.has_value()) request.set_sync_replicas(*sync_replicas);
  return absl::OkStatus();
}

}  // namespace reprise::cli
