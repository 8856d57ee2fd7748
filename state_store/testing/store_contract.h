// What every session store must do: one suite for all backends.
//
//   INSTANTIATE_TEST_SUITE_P(Memory, StoreContract, testing::Values(MemoryStoreUnderTest()), ...);
#ifndef REPRISE_STATE_STORE_TESTING_STORE_CONTRACT_H_
#define REPRISE_STATE_STORE_TESTING_STORE_CONTRACT_H_

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>

#include "state_store/session_store.h"
#include "state_store/store_options.h"
#include "state_store/testing/builders.h"

namespace reprise::state_store {

// A place that stores are opened in, one after the other.
class StoreUnderTest {
 public:
  virtual ~StoreUnderTest() = default;
  // Opens or reopens; called only when the store before is gone.
  virtual absl::StatusOr<std::unique_ptr<SessionStore>> Open(const StoreOptions& options) = 0;
};

inline absl::Status StatusOf(const absl::Status& status) { return status; }
template <typename T>
absl::Status StatusOf(const absl::StatusOr<T>& value) {
  return value.status();
}

// The status of a call and the error that it carries.
#define EXPECT_STORE_ERROR(call, error)                                          \
  do {                                                                           \
    const absl::Status status_seen = StatusOf(call);                             \
    EXPECT_EQ(GetStoreError(status_seen), StoreError::error) << status_seen;     \
    EXPECT_EQ(status_seen.code(), MakeStoreError(StoreError::error, "").code()); \
  } while (false)

struct StoreKind {
  std::string name;
  bool lasting = false;  // what was stored is there after reopening
  std::function<std::unique_ptr<StoreUnderTest>()> make;
  bool writes_behind = false;  // kAsync commits may be acknowledged before they are in the store
};

class StoreContract : public testing::TestWithParam<StoreKind> {
 protected:
  void SetUp() override;
  void TearDown() override;  // checks the store's integrity

  void Reopen();
  SessionStore& store() { return *store_; }

  // EXPECT that the call works.
  Session Create(const std::string& id, const std::string& tenant = "t");
  Session Commit(const Session& session, uint64_t seed, const CommitOptions& options = {});
  void ExpectHead(const std::string& session_id, uint64_t seed, const std::string& tenant = "t");
  StoreStats StatsOf(const std::string& tenant = "t");
  std::string Export(const std::string& session_id, const std::string& snapshot_id = "");

  FakeClock clock_;
  StoreOptions options_;
  std::unique_ptr<StoreUnderTest> place_;
  std::unique_ptr<SessionStore> store_;
};

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_TESTING_STORE_CONTRACT_H_
