// What the files of StoreImpl share to talk to Redis without scripts.
#ifndef REPRISE_STATE_STORE_REDIS_STORE_COMMANDS_H_
#define REPRISE_STATE_STORE_REDIS_STORE_COMMANDS_H_

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "state_store/redis/client.h"

namespace reprise::state_store::redis {

// Of one walk's step.
inline constexpr size_t kWalkBatch = 256;

// A command whose key is its first argument.
inline Command Plain(std::vector<std::string> arguments) {
  std::string key = arguments[1];
  return {.arguments = std::move(arguments), .tail = {}, .key = std::move(key)};
}

// The elements of an array of strings.
inline absl::StatusOr<std::vector<std::string>> Texts(const absl::StatusOr<Reply>& reply,
                                                      std::string_view what) {
  RETURN_IF_ERROR(reply.status());
  ASSIGN_OR_RETURN(const auto* elements, reply->Array(what));
  std::vector<std::string> texts;
  for (const Reply& element : *elements) texts.push_back(element.text);
  return texts;
}

}  // namespace reprise::state_store::redis

#endif  // REPRISE_STATE_STORE_REDIS_STORE_COMMANDS_H_
