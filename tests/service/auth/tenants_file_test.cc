#include "service/auth/tenants_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace reprise::service {
namespace {

using ::testing::HasSubstr;

TEST(TenantsFileTest, WhatATenantDoesNotSayIsTheDefault) {
  const auto file = TenantsFile::Parse(R"({
    "defaults": {"requests_per_second": 2.5, "sessions": 10},
    "tenants": {
      "acme": {"requests_per_second": 0, "request_burst": 7, "tokens_per_minute": 600,
               "concurrent_requests": 3, "stored_bytes": 9007199254740992, "weight": 0.5},
      "small": {}}})");
  ASSERT_TRUE(file.ok()) << file.status();
  const TenantQuota& acme = file->QuotaOf("acme");
  EXPECT_EQ(acme.requests_per_second, 0);
  EXPECT_EQ(acme.request_burst, 7);
  EXPECT_EQ(acme.tokens_per_minute, 600);
  EXPECT_EQ(acme.concurrent_requests, 3);
  EXPECT_EQ(acme.sessions, 10);
  EXPECT_EQ(acme.weight, 0.5);
  EXPECT_EQ(acme.stored_bytes, int64_t{1} << 53);
  for (const char* other : {"small", "somebody"}) {
    EXPECT_EQ(file->QuotaOf(other), file->defaults()) << other;
    EXPECT_EQ(file->QuotaOf(other).requests_per_second, 2.5);
    EXPECT_EQ(file->QuotaOf(other).weight, 0) << "whoever says nothing leaves it to the flag";
  }
}

TEST(TenantsFileTest, WithoutAFileThereAreNoLimits) {
  EXPECT_EQ(TenantsFile().QuotaOf("anybody"), TenantQuota());
  EXPECT_TRUE(TenantsFile().CheckAllowed("anybody").ok());
  EXPECT_EQ(TenantsFile::Parse("{}")->QuotaOf("anybody"), TenantQuota());
}

TEST(TenantsFileTest, SomeTenantsAreNotServed) {
  const auto open = TenantsFile::Parse(R"({"tenants": {"a": {}, "gone": {"disabled": true}}})");
  EXPECT_TRUE(open->CheckAllowed("a").ok());
  EXPECT_TRUE(open->CheckAllowed("unlisted").ok());
  EXPECT_TRUE(absl::IsPermissionDenied(open->CheckAllowed("gone")));
  const auto closed = TenantsFile::Parse(
      R"({"unlisted": "refuse", "tenants": {"a": {"disabled": false}, "gone": {"disabled": true}}})");
  EXPECT_TRUE(closed->CheckAllowed("a").ok());
  // Whether a tenant is disabled or unknown cannot be told from the answer.
  EXPECT_EQ(closed->CheckAllowed("unlisted"), closed->CheckAllowed("gone"));
  EXPECT_TRUE(absl::IsPermissionDenied(closed->CheckAllowed("unlisted")));
}

TEST(TenantsFileTest, CertificatesAreOfOneTenantEach) {
  const auto file = TenantsFile::Parse(
      R"({"tenants": {"a": {"certificates": ["cn:a", "uri:spiffe://x/a"]}, "b": {"certificates": ["dns:b"]}}})");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->TenantOfCertificate("cn:a"), "a");
  EXPECT_EQ(file->TenantOfCertificate("uri:spiffe://x/a"), "a");
  EXPECT_EQ(file->TenantOfCertificate("dns:b"), "b");
  EXPECT_EQ(file->TenantOfCertificate("dns:a"), "");
  EXPECT_EQ(file->TenantOfCertificate("cn:A"), "");
}

TEST(TenantsFileTest, ErrorsNameTheKey) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "not JSON"},
      {"[]", "JSON object"},
      {R"({"default": {}})", "default: no such key"},
      {R"({"defaults": []})", "defaults: must be"},
      {R"({"defaults": {"session": 1}})", "defaults.session: no such key"},
      {R"({"defaults": {"disabled": true}})", "defaults.disabled: no such key"},
      {R"({"defaults": {"sessions": -1}})", "defaults.sessions: must be"},
      {R"({"defaults": {"sessions": 1.5}})", "defaults.sessions: must be"},
      {R"({"defaults": {"sessions": "5"}})", "defaults.sessions: must be"},
      {R"({"defaults": {"sessions": 9007199254740993}})", "defaults.sessions: must be"},
      {R"({"defaults": {"colour": 1}})", "defaults.colour: no such key"},
      {R"({"defaults": {"request_burst": 0.5}})", "defaults.request_burst: must be"},
      {R"({"defaults": {"requests_per_second": -1}})", "defaults.requests_per_second: must be"},
      {R"({"defaults": {"requests_per_second": 1e999}})", ""},
      {R"({"defaults": {"sessions": 1, "sessions": 2}})", "\"sessions\" twice"},
      {R"({"tenants": {"a": {}, "a": {}}})", "\"a\" twice"},
      {R"({"tenants": {"a b": {}}})", "tenants.a b: must be"},
      {R"({"tenants": {"": {}}})", "tenants.: must be"},
      {R"({"tenants": {"a": 1}})", "tenants.a: must be an object"},
      {R"({"tenants": {"a": {"disabled": 1}}})", "tenants.a.disabled: must be"},
      {R"({"tenants": {"a": {"certificates": "cn:a"}}})", "tenants.a.certificates: must be"},
      {R"({"tenants": {"a": {"certificates": ["a"]}}})", "tenants.a.certificates: must be"},
      {R"({"tenants": {"a": {"certificates": ["cn:"]}}})", "tenants.a.certificates: must be"},
      {R"({"tenants": {"a": {"certificates": ["cn:x"]}, "b": {"certificates": ["cn:x"]}}})",
       "cn:x is of a already"},
      {R"({"unlisted": "deny"})", "unlisted: must be"},
      {R"({"defaults": {"weight": 0}})", "defaults.weight: must be a number from 0.001 to 1000"},
      {R"({"tenants": {"a": {"weight": 1001}}})", "tenants.a.weight: must be"},
      {R"({"tenants": {"a": {"weight": "3"}}})", "tenants.a.weight: must be"},
      {R"({"tenants": {"a": {"x": [[[[[[[[1]]]]]]]]}}})", ""},
      {std::string(100000, '['), ""},
  };
  for (const auto& [text, message] : cases) {
    const auto file = TenantsFile::Parse(text);
    ASSERT_TRUE(absl::IsInvalidArgument(file.status())) << text.substr(0, 100);
    EXPECT_THAT(std::string(file.status().message()), HasSubstr(message));
  }
}

}  // namespace
}  // namespace reprise::service
