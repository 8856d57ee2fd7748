// What went wrong between us and Redis, and whether the command may have been carried out.
#ifndef REPRISE_STATE_STORE_REDIS_ERROR_H_
#define REPRISE_STATE_STORE_REDIS_ERROR_H_

#include <string_view>

#include "absl/status/status.h"

namespace reprise::state_store::redis {

inline constexpr char kRedisErrorUrl[] = "reprise.dev/RedisError";

// The status code that each travels with stands beside it.
enum class RedisError {
  kNone,      // no Redis error is attached
  kRefused,   // UNAVAILABLE: no connection came about
  kClosed,    // UNAVAILABLE: the connection broke
  kTimeout,   // DEADLINE_EXCEEDED
  kProtocol,  // INTERNAL: what came was not RESP, or more than we take
  kTls,       // UNAVAILABLE: handshake or certificate
  kUnready,   // UNAVAILABLE: LOADING, READONLY, MASTERDOWN, CLUSTERDOWN, TRYAGAIN, BUSY, MISCONF,
              // NOREPLICAS
  kMoved,     // UNAVAILABLE: MOVED or ASK
  kNoScript,  // UNAVAILABLE: NOSCRIPT
  kMemory,    // RESOURCE_EXHAUSTED: OOM (maxmemory)
  kNoAuth,    // UNAUTHENTICATED: NOAUTH, WRONGPASS
  kDenied,    // PERMISSION_DENIED: NOPERM
  kServer,    // INTERNAL: any other error reply
};

// What is known of a command that failed.
enum class Outcome {
  kNotDone,  // the server did not get all of it, or answered that it did nothing
  kUnknown,  // sent, and no answer: it may have happened, or may yet
};

absl::Status MakeRedisError(RedisError error, Outcome outcome, std::string_view message);

// The status for an error reply such as "READONLY You can't write against a read only replica."
absl::Status StatusFromErrorReply(std::string_view text);

RedisError GetRedisError(const absl::Status& status);
// kNotDone unless the status says otherwise.
Outcome GetOutcome(const absl::Status& status);

// The same error, of a command of which another try may have been carried out.
absl::Status InDoubt(const absl::Status& status);

// Whether trying again, here or at another node, may help.
bool IsTransient(const absl::Status& status);
// Whether the connection is of no more use after this.
bool BreaksConnection(const absl::Status& status);

}  // namespace reprise::state_store::redis

#endif  // REPRISE_STATE_STORE_REDIS_ERROR_H_
