#include "service/auth/quota_book.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "google/rpc/error_details.pb.h"
#include "service/errors.h"
#include "state_store/memory_store.h"

namespace reprise::service {
namespace {

using ::testing::HasSubstr;

template <typename Detail>
bool FindDetail(const absl::Status& status, const std::string& name, Detail* detail) {
  const auto payload = status.GetPayload(std::string(kDetailPrefix) + name);
  return payload.has_value() && detail->ParseFromString(std::string(*payload));
}

// The delay that a refusal names; zero if it names none.
absl::Duration RetryIn(const absl::Status& status) {
  google::rpc::RetryInfo retry;
  FindDetail(status, "RetryInfo", &retry);
  return absl::Seconds(retry.retry_delay().seconds()) +
         absl::Nanoseconds(retry.retry_delay().nanos());
}

class QuotaBookTest : public ::testing::Test {
 protected:
  QuotaBookTest() : store_(state_store::CreateMemoryStore({}).value()) { Limits("{}"); }

  void Limits(const std::string& tenants) {
    const std::string text = R"({"tenants": )" + tenants + "}";
    tenants_ = std::make_shared<const TenantsFile>(TenantsFile::Parse(text).value());
  }

  // How many requests come through before one is refused.
  int Burst(const std::string& tenant, int most = 100) {
    int count = 0;
    while (count < most && book_.Admit(tenant).ok()) ++count;
    return count;
  }

  FakeClock clock_;
  std::unique_ptr<state_store::SessionStore> store_;
  std::shared_ptr<const TenantsFile> tenants_;
  QuotaBook book_{&clock_, [this] { return tenants_; }, store_.get()};
};

TEST_F(QuotaBookTest, WithoutLimitsNothingIsRefused) {
  std::vector<QuotaBook::Permit> permits;
  for (int i = 0; i < 1000; ++i) permits.push_back(book_.Admit("a").value());
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(book_.SpendPrompt("a", 1 << 30).ok());
  EXPECT_TRUE(book_.Reserve("a", 1000000, int64_t{1} << 50).ok());
}

TEST_F(QuotaBookTest, RequestsComeBackAtTheirRate) {
  Limits(R"({"a": {"requests_per_second": 2, "request_burst": 5}})");
  EXPECT_EQ(Burst("a"), 5);
  const absl::Status refused = book_.Admit("a").status();
  EXPECT_EQ(ReasonOf(refused), v1::ERROR_REASON_QUOTA_EXCEEDED);
  EXPECT_TRUE(absl::IsResourceExhausted(refused));
  google::rpc::QuotaFailure failure;
  ASSERT_TRUE(FindDetail(refused, "QuotaFailure", &failure));
  EXPECT_EQ(failure.violations(0).subject(), "tenant:a");
  EXPECT_EQ(failure.violations(0).description(), "requests_per_second: 2");
  const absl::Duration wait = RetryIn(refused);
  EXPECT_GE(wait, absl::Milliseconds(500));
  EXPECT_LE(wait, absl::Milliseconds(502));
  clock_.Advance(absl::Milliseconds(499));
  EXPECT_FALSE(book_.Admit("a").ok());
  clock_.Advance(wait - absl::Milliseconds(499));
  EXPECT_EQ(Burst("a"), 1);
  clock_.Advance(absl::Hours(1));
  EXPECT_EQ(Burst("a"), 5);
  EXPECT_EQ(Burst("b"), 100) << "another tenant's requests are not counted here";
}

TEST_F(QuotaBookTest, ARateBelowOneStillLetsOneThrough) {
  Limits(R"({"a": {"requests_per_second": 0.1}})");
  EXPECT_EQ(Burst("a"), 1);
  clock_.Advance(absl::Seconds(9));
  EXPECT_EQ(Burst("a"), 0);
  clock_.Advance(absl::Seconds(1.1));
  EXPECT_EQ(Burst("a"), 1);
}

TEST_F(QuotaBookTest, AClockThatIsSetBackGivesAndTakesNothing) {
  Limits(R"({"a": {"requests_per_second": 1, "request_burst": 3}})");
  EXPECT_EQ(Burst("a"), 3);
  clock_.Advance(-absl::Hours(1));
  EXPECT_EQ(Burst("a"), 0);
  clock_.Advance(absl::Seconds(2.5));
  EXPECT_EQ(Burst("a"), 2);
}

TEST_F(QuotaBookTest, CallsInProgressAreCountedUntilTheyEnd) {
  Limits(R"({"a": {"concurrent_requests": 2}})");
  auto first = book_.Admit("a");
  auto second = book_.Admit("a");
  ASSERT_TRUE(first.ok() && second.ok());
  const absl::Status refused = book_.Admit("a").status();
  EXPECT_THAT(std::string(refused.message()), HasSubstr("concurrent_requests: 2"));
  EXPECT_GT(RetryIn(refused), absl::ZeroDuration());
  EXPECT_TRUE(book_.Admit("b").ok());
  QuotaBook::Permit moved = *std::move(first);
  EXPECT_FALSE(book_.Admit("a").ok()) << "a moved permit still holds its place";
  moved = QuotaBook::Permit();
  EXPECT_TRUE(book_.Admit("a").ok());
}

TEST_F(QuotaBookTest, ARefusedRequestTakesNothingFromTheRate) {
  Limits(R"({"a": {"requests_per_second": 1, "request_burst": 2, "concurrent_requests": 1}})");
  auto held = book_.Admit("a");
  for (int i = 0; i < 10; ++i) EXPECT_FALSE(book_.Admit("a").ok());
  held = absl::UnknownError("gone");
  EXPECT_TRUE(book_.Admit("a").ok());
}

TEST_F(QuotaBookTest, TokensOfAnswersArePaidByTheNextPrompt) {
  Limits(R"({"a": {"tokens_per_minute": 600}})");
  EXPECT_TRUE(book_.SpendPrompt("a", 500).ok());
  book_.SpendAnswer("a", 300);  // now 200 below zero, at 10 a second
  const absl::Status refused = book_.SpendPrompt("a", 1);
  EXPECT_EQ(ReasonOf(refused), v1::ERROR_REASON_QUOTA_EXCEEDED);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("tokens_per_minute: 600"));
  EXPECT_GE(RetryIn(refused), absl::Seconds(20));
  EXPECT_LE(RetryIn(refused), absl::Seconds(20.01));
  clock_.Advance(absl::Seconds(20));
  EXPECT_FALSE(book_.SpendPrompt("a", 1).ok());
  clock_.Advance(absl::Milliseconds(2));
  // A prompt longer than what is there passes once; a limit must not make long prompts impossible.
  EXPECT_TRUE(book_.SpendPrompt("a", 5000).ok());
  EXPECT_FALSE(book_.SpendPrompt("a", 1).ok());
  EXPECT_TRUE(book_.SpendPrompt("b", 1).ok());
}

TEST_F(QuotaBookTest, AChangedFileHoldsAtOnce) {
  Limits(R"({"a": {"requests_per_second": 1, "request_burst": 100}})");
  auto held = book_.Admit("a");
  Limits(R"({"a": {"requests_per_second": 1, "request_burst": 3, "concurrent_requests": 1}})");
  EXPECT_FALSE(book_.Admit("a").ok()) << "what was admitted before counts";
  held = absl::UnknownError("gone");
  EXPECT_EQ(Burst("a"), 3);
  Limits("{}");
  EXPECT_EQ(Burst("a"), 100);
}

TEST_F(QuotaBookTest, SessionsAreCountedInTheStoreAndOnTheirWayThere) {
  Limits(R"({"a": {"sessions": 2}})");
  ASSERT_TRUE(store_->CreateSession("a", {.id = "one"}).ok());
  ASSERT_TRUE(store_->CreateSession("b", {.id = "other"}).ok());
  auto room = book_.Reserve("a", 1, 0);
  ASSERT_TRUE(room.ok()) << room.status();
  const absl::Status refused = book_.Reserve("a", 1, 0).status();
  EXPECT_EQ(ReasonOf(refused), v1::ERROR_REASON_QUOTA_EXCEEDED);
  EXPECT_EQ(RetryIn(refused), absl::ZeroDuration()) << "waiting does not help";
  ASSERT_TRUE(store_->CreateSession("a", {.id = "two"}).ok());
  room = absl::UnknownError("done");
  EXPECT_FALSE(book_.Reserve("a", 1, 0).ok()) << "counts as used until the store is asked";
  clock_.Advance(absl::Minutes(1));
  EXPECT_FALSE(book_.Reserve("a", 1, 0).ok()) << "and the store agrees";
  EXPECT_TRUE(book_.Reserve("a", 0, 1000).ok()) << "bytes have no limit";
  EXPECT_TRUE(book_.Reserve("b", 1, 0).ok());
}

TEST_F(QuotaBookTest, WhatIsDeletedMakesRoom) {
  Limits(R"({"a": {"sessions": 1}})");
  ASSERT_TRUE(store_->CreateSession("a", {.id = "one"}).ok());
  EXPECT_FALSE(book_.Reserve("a", 1, 0).ok());
  ASSERT_TRUE(store_->DeleteSession("a", "one").ok());
  // The store is not asked again at once, unless it is known that something was deleted.
  EXPECT_FALSE(book_.Reserve("a", 1, 0).ok());
  book_.Forget("a");
  EXPECT_TRUE(book_.Reserve("a", 1, 0).ok());

  ASSERT_TRUE(store_->CreateSession("a", {.id = "two"}).ok());
  clock_.Advance(absl::Minutes(1));
  EXPECT_FALSE(book_.Reserve("a", 1, 0).ok());
  ASSERT_TRUE(store_->DeleteSession("a", "two").ok());
  clock_.Advance(absl::Seconds(1));
  EXPECT_TRUE(book_.Reserve("a", 1, 0).ok());
}

TEST_F(QuotaBookTest, AReservationThatWasRefusedCountsForNothing) {
  Limits(R"({"a": {"stored_bytes": 1000}})");
  EXPECT_FALSE(book_.Reserve("a", 0, 5000).ok());
  EXPECT_FALSE(book_.Reserve("a", 0, 5000).ok());
  auto room = book_.Reserve("a", 0, 600);
  EXPECT_TRUE(room.ok()) << room.status();
  EXPECT_FALSE(book_.Reserve("a", 0, 600).ok());
  EXPECT_TRUE(book_.Reserve("a", 0, 400).ok());
}

TEST_F(QuotaBookTest, ManyTenantsAreForgottenButNotTheirDebts) {
  tenants_ = std::make_shared<const TenantsFile>(
      TenantsFile::Parse(R"({"defaults": {"requests_per_second": 0.001, "request_burst": 2}})")
          .value());
  EXPECT_EQ(Burst("debtor"), 2);
  for (int i = 0; i < 20000; ++i) EXPECT_TRUE(book_.Admit("t" + std::to_string(i)).ok());
  EXPECT_EQ(Burst("debtor"), 0);
  clock_.Advance(absl::Hours(1));
  for (int i = 0; i < 20000; ++i) EXPECT_TRUE(book_.Admit("u" + std::to_string(i)).ok());
  EXPECT_EQ(Burst("debtor"), 2);
}

}  // namespace
}  // namespace reprise::service
