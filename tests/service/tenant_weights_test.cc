// Shares of tenants over the wire: weights of --tenants-file and of --tenant-weight. What counts
// are rows of prompts, which the model sees, and no time.
#include "service/tenant_weights.h"

#include <gtest/gtest.h>

#include <array>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "tests/service/testing/tenant_server.h"

namespace reprise::service {
namespace {

using testing::ReadAll;
using testing::TenantServer;
using testing::TestServer;
using testing::TokenRequest;

// Two tenants send prompts that are longer than any test, one of token 1 and one of token 2.
class TenantWeightsTest : public ::testing::Test {
 protected:
  static constexpr int kPrompt = 60'000, kRows = 3200;

  void Start(const std::string& tenants_file, std::map<std::string, double> flags = {}) {
    TestServer::Options options = TestServer::SmallOptions();
    options.server.compute.tenant_weights = std::move(flags);
    options.server.compute.prefix_cache_bytes = 0;
    options.on_step = [this](const models::RaggedBatch& batch) { Count(batch); };
    server_ = std::make_unique<TenantServer>(std::vector<std::string>{"a", "b", "c", "d", "e", "f"},
                                             tenants_file, options);
  }

  // Of the first kRows rows from when both have some: those of `second` for each of `first`.
  // Neither may have run before: what one has had beyond the other is not forgotten.
  double Ratio(const std::string& first, const std::string& second) {
    {
      absl::MutexLock lock(&mutex_);
      rows_ = {};
    }
    TestServer& server = **server_;
    server.gate().Hold();
    std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
    std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>> readers;
    for (const auto& [tenant, token] : {std::pair(first, 1), std::pair(second, 2)}) {
      contexts.push_back(server_->Context(tenant));
      readers.push_back(server.generation().Generate(
          contexts.back().get(), TokenRequest(std::vector<int32_t>(kPrompt, token), 1)));
    }
    // A single step now and then, so that neither is through before the other has come.
    const absl::Time limit = absl::Now() + testing::kPatience;
    while (Rows() == 0 && absl::Now() < limit) {
      EXPECT_TRUE(server.gate().AwaitHeld());
      server.gate().Allow(1);
      absl::SleepFor(absl::Milliseconds(5));
    }
    server.gate().Open();
    while (Rows() < kRows && absl::Now() < limit) absl::SleepFor(absl::Milliseconds(1));
    for (auto& context : contexts) context->TryCancel();
    for (auto& reader : readers) ReadAll(reader.get());
    EXPECT_TRUE(server.AwaitIdle());
    EXPECT_GE(Rows(), kRows);
    absl::MutexLock lock(&mutex_);
    return static_cast<double>(rows_[2]) / rows_[1];
  }

 private:
  int Rows() const {
    absl::MutexLock lock(&mutex_);
    return rows_[1] + rows_[2];
  }
  void Count(const models::RaggedBatch& batch) {
    std::array<int, 3> rows = {};
    for (int32_t token : batch.tokens) {
      if (token == 1 || token == 2) ++rows[token];
    }
    absl::MutexLock lock(&mutex_);
    const int before = rows_[1] + rows_[2];
    if (before >= kRows || (before == 0 && (rows[1] == 0 || rows[2] == 0))) return;
    for (int token : {1, 2}) rows_[token] += rows[token];
  }

  mutable absl::Mutex mutex_;
  std::array<int, 3> rows_ ABSL_GUARDED_BY(mutex_) = {};  // by token

 protected:
  std::unique_ptr<TenantServer> server_;  // its threads count
};

TEST_F(TenantWeightsTest, PromptRowsFollowTheTenantsFile) {
  Start(R"({"tenants": {"b": {"weight": 3}}})");
  EXPECT_NEAR(Ratio("a", "b"), 3.0, 0.2);
}

TEST_F(TenantWeightsTest, WithoutWeightsAllAreAlike) {
  Start("");
  EXPECT_NEAR(Ratio("a", "b"), 1.0, 0.1);
}

TEST_F(TenantWeightsTest, TheFileGoesBeforeTheFlagAndIsReadAgain) {
  Start(R"({"tenants": {"a": {"weight": 2}, "b": {}}})",
        {{"a", 9}, {"b", 4}, {"c", 9}, {"d", 4}, {"e", 9}, {"f", 4}});
  EXPECT_NEAR(Ratio("a", "b"), 4.0 / 2, 0.15);
  server_->WriteTenants(
      R"({"defaults": {"weight": 1}, "tenants": {"c": {"weight": 3}, "e": {"weight": 3}}})");
  (**server_).server().Reload();
  EXPECT_NEAR(Ratio("c", "d"), 1.0 / 3, 0.05);
  // One that cannot be used changes nothing.
  server_->WriteTenants(R"({"tenants": {"e": {"weight": -1}}})");
  (**server_).server().Reload();
  EXPECT_NEAR(Ratio("e", "f"), 1.0 / 3, 0.05);
}

TEST(TenantWeights, WhatTheFileDoesNotSayTheFlagSays) {
  TenantWeights weights({{"a", 3}});
  EXPECT_EQ(weights.Of("a"), 3);
  EXPECT_EQ(weights.Of("b"), 1);
  weights.Follow([](const std::string& tenant) { return tenant == "b" ? 0.25 : 0.0; });
  EXPECT_EQ(weights.Of("a"), 3);
  EXPECT_EQ(weights.Of("b"), 0.25);
}

}  // namespace
}  // namespace reprise::service
