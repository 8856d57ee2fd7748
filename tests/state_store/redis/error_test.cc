#include "state_store/redis/error.h"

#include <gtest/gtest.h>

#include <string>

#include "base/status_macros.h"
#include "state_store/store_error.h"

namespace reprise::state_store::redis {
namespace {

TEST(StatusFromErrorReply, MapsEveryWordThatServersSay) {
  struct Row {
    std::string text;
    RedisError error;
    absl::StatusCode code;
    bool transient;
  };
  using Code = absl::StatusCode;
  const Row rows[] = {
      {"LOADING Redis is loading", RedisError::kUnready, Code::kUnavailable, true},
      {"READONLY You can't write", RedisError::kUnready, Code::kUnavailable, true},
      {"MASTERDOWN Link with MASTER is down", RedisError::kUnready, Code::kUnavailable, true},
      {"CLUSTERDOWN Hash slot not served", RedisError::kUnready, Code::kUnavailable, true},
      {"TRYAGAIN Multiple keys", RedisError::kUnready, Code::kUnavailable, true},
      {"BUSY Redis is busy", RedisError::kUnready, Code::kUnavailable, true},
      {"MISCONF Redis is configured", RedisError::kUnready, Code::kUnavailable, true},
      {"NOREPLICAS Not enough", RedisError::kUnready, Code::kUnavailable, true},
      {"MOVED 1 h:2", RedisError::kMoved, Code::kUnavailable, true},
      {"ASK 1 h:2", RedisError::kMoved, Code::kUnavailable, true},
      {"NOSCRIPT No matching script", RedisError::kNoScript, Code::kUnavailable, true},
      {"OOM command not allowed", RedisError::kMemory, Code::kResourceExhausted, false},
      {"NOAUTH Authentication required.", RedisError::kNoAuth, Code::kUnauthenticated, false},
      {"WRONGPASS invalid username", RedisError::kNoAuth, Code::kUnauthenticated, false},
      {"ERR invalid password", RedisError::kNoAuth, Code::kUnauthenticated, false},
      {"NOPERM this user has no", RedisError::kDenied, Code::kPermissionDenied, false},
      {"ERR unknown command", RedisError::kServer, Code::kInternal, false},
      {"WRONGTYPE Operation", RedisError::kServer, Code::kInternal, false},
      {"", RedisError::kServer, Code::kInternal, false},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.text);
    const absl::Status status = StatusFromErrorReply(row.text);
    EXPECT_EQ(GetRedisError(status), row.error);
    EXPECT_EQ(status.code(), row.code);
    EXPECT_EQ(IsTransient(status), row.transient);
    EXPECT_FALSE(BreaksConnection(status));
    EXPECT_EQ(GetOutcome(status), Outcome::kNotDone);
  }
}

TEST(RedisErrors, SayWhetherTheCommandMayHaveBeenCarriedOut) {
  const absl::Status unknown = MakeRedisError(RedisError::kClosed, Outcome::kUnknown, "gone");
  EXPECT_EQ(GetOutcome(unknown), Outcome::kUnknown);
  EXPECT_EQ(GetRedisError(unknown), RedisError::kClosed);
  EXPECT_TRUE(BreaksConnection(unknown));
  EXPECT_NE(std::string(unknown.message()).find("may have been carried out"), std::string::npos);
  // Context on the way up keeps it.
  EXPECT_EQ(GetOutcome(Prefixed(unknown, "commit")), Outcome::kUnknown);
  EXPECT_EQ(GetOutcome(MakeRedisError(RedisError::kClosed, Outcome::kNotDone, "gone")),
            Outcome::kNotDone);
  EXPECT_EQ(GetOutcome(absl::OkStatus()), Outcome::kNotDone);
  EXPECT_EQ(GetRedisError(absl::UnavailableError("x")), RedisError::kNone);
}

TEST(RedisErrors, AreStoreErrorsToTheLayersAbove) {
  EXPECT_EQ(GetStoreError(StatusFromErrorReply("OOM x")), StoreError::kStoreFull);
  EXPECT_EQ(GetStoreError(StatusFromErrorReply("LOADING x")), StoreError::kIoError);
}

}  // namespace
}  // namespace reprise::state_store::redis
