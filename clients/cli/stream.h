// One Generate call, with Ctrl-C.
#ifndef REPRISE_CLIENTS_CLI_STREAM_H_
#define REPRISE_CLIENTS_CLI_STREAM_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "clients/cli/env.h"

namespace reprise::cli {

// Runs `request` and hands each `tokens` event to `on_tokens` as it arrives. Ctrl-C cancels the
// call; the result is then an Interrupted status that says how many tokens the session has now.
absl::StatusOr<v1::Finished> RunStream(Env& env, const v1::GenerateRequest& request,
                                       const std::function<void(const v1::Tokens&)>& on_tokens);

// The same for a request of several answers: the end of each, by choice.
absl::StatusOr<std::vector<v1::Finished>> RunChoices(
    Env& env, const v1::GenerateRequest& request,
    const std::function<void(const v1::Tokens&)>& on_tokens);

// "12 prompt + 50 generated tokens (40 restored), 48.1 tokens/s, first token after 12 ms".
std::string UsageLine(const v1::Finished& finished);

}  // namespace reprise::cli

#endif  // REPRISE_CLIENTS_CLI_STREAM_H_
