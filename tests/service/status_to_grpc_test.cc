#include "service/status_to_grpc.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/cord.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "models/tokenizer/utf8.h"
#include "scheduler/scheduler_error.h"
#include "scheduler/session_state.h"
#include "service/errors.h"
#include "state_store/store_error.h"
#include "tests/service/testing/test_server.h"

namespace reprise::service {
namespace {

using ::testing::ElementsAre;
using testing::ErrorInfoIn;
using testing::FieldsIn;
using testing::HasRetryInfo;
using testing::ReasonIn;

TEST(StatusToGrpcTest, OkIsOk) { EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok()); }

TEST(StatusToGrpcTest, EachReasonHasItsCodeAndItsNameOnTheWire) {
  for (int i = 1; v1::ErrorReason_IsValid(i); ++i) {
    const auto reason = static_cast<v1::ErrorReason>(i);
    const grpc::Status status = ToGrpcStatus(MakeError(reason, "m", {{"key", "value"}}));
    EXPECT_EQ("ERROR_REASON_" + ReasonIn(status), v1::ErrorReason_Name(reason));
    EXPECT_EQ(status.error_code(), static_cast<grpc::StatusCode>(CodeOf(reason)));
    EXPECT_EQ(ErrorInfoIn(status).domain(), "reprise.dev");
    EXPECT_EQ(ErrorInfoIn(status).metadata().at("key"), "value");
    EXPECT_LE(ErrorInfoIn(status).reason().size(), 63u);
  }
}

TEST(StatusToGrpcTest, TheStatusInTheDetailsIsTheStatus) {
  const grpc::Status status = ToGrpcStatus(absl::NotFoundError("gone"));
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(status.error_details()));
  EXPECT_EQ(details.code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(details.message(), "gone");
}

TEST(StatusToGrpcTest, TheSchedulersErrorAndDelayReachTheClient) {
  using scheduler::SchedulerError;
  const grpc::Status status = ToGrpcStatus(scheduler::MakeSchedulerError(
      SchedulerError::kTenantQueueFull, "m", absl::Milliseconds(2500)));
  EXPECT_EQ(ReasonIn(status), "QUEUE_FULL");
  EXPECT_EQ(ErrorInfoIn(status).metadata().at("scheduler_error"), "TENANT_QUEUE_FULL");
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(status.error_details()));
  google::rpc::RetryInfo retry;
  for (const auto& detail : details.details()) {
    if (detail.Is<google::rpc::RetryInfo>()) detail.UnpackTo(&retry);
  }
  EXPECT_EQ(retry.retry_delay().seconds(), 2);
  EXPECT_EQ(retry.retry_delay().nanos(), 500'000'000);
  EXPECT_EQ(ReasonIn(ToGrpcStatus(
                scheduler::MakeSchedulerError(SchedulerError::kDeadlineUnreachable, "m"))),
            "DEADLINE_EXCEEDED");
  EXPECT_EQ(ReasonIn(ToGrpcStatus(scheduler::MakeSchedulerError(SchedulerError::kDraining, "m"))),
            "DRAINING");
}

TEST(StatusToGrpcTest, StoreErrorsGetAReason) {
  using state_store::MakeStoreError;
  using state_store::StoreError;
  const std::vector<std::pair<StoreError, std::string>> expected = {
      {StoreError::kInvalidArgument, "INVALID_FIELD"},
      {StoreError::kInvalidPageToken, "INVALID_FIELD"},
      {StoreError::kRequestIdReused, "REQUEST_ID_REUSED"},
      {StoreError::kSessionNotFound, "SESSION_NOT_FOUND"},
      {StoreError::kSessionExpired, "SESSION_NOT_FOUND"},
      {StoreError::kSnapshotNotFound, "SNAPSHOT_NOT_FOUND"},
      {StoreError::kSessionExists, "SESSION_EXISTS"},
      {StoreError::kVersionMismatch, "VERSION_MISMATCH"},
      {StoreError::kNoHead, "EMPTY_SESSION"},
      {StoreError::kSnapshotIsHead, "SNAPSHOT_IN_USE"},
      {StoreError::kModelMismatch, "FINGERPRINT_MISMATCH"},
      {StoreError::kCorruptChunk, "CORRUPT_SNAPSHOT"},
      {StoreError::kCorruptManifest, "CORRUPT_SNAPSHOT"},
      {StoreError::kCorruptStream, "CORRUPT_SNAPSHOT"},
      {StoreError::kUnsupportedVersion, "UNSUPPORTED_FORMAT"},
      {StoreError::kStoreFull, "STORE_FULL"},
      {StoreError::kIoError, "STORE_UNAVAILABLE"},
      {StoreError::kSessionLeased, "SESSION_BUSY"},
      {StoreError::kLeaseLost, "LEASE_LOST"},
      {StoreError::kCommitsLost, "COMMITS_LOST"},
  };
  for (const auto& [error, reason] : expected) {
    const absl::Status plain = MakeStoreError(error, "m");
    const grpc::Status status = ToGrpcStatus(plain);
    EXPECT_EQ(ReasonIn(status), reason);
    EXPECT_EQ(status.error_code(), static_cast<grpc::StatusCode>(plain.code())) << reason;
    // What errors.proto says about the reason holds for the store's statuses too.
    EXPECT_EQ(plain.code(), CodeOf(ReasonOf(plain))) << reason;
  }
}

TEST(StatusToGrpcTest, AMismatchNamesFieldAndBothValues) {
  absl::Status plain = absl::FailedPreconditionError("other weights");
  plain.SetPayload(scheduler::kMismatchPayload, absl::Cord("weights_fingerprint\naa\nbb"));
  const grpc::Status status = ToGrpcStatus(plain);
  EXPECT_EQ(ReasonIn(status), "FINGERPRINT_MISMATCH");
  EXPECT_EQ(ErrorInfoIn(status).metadata().at("field"), "weights_fingerprint");
  EXPECT_EQ(ErrorInfoIn(status).metadata().at("expected"), "aa");
  EXPECT_EQ(ErrorInfoIn(status).metadata().at("found"), "bb");
}

TEST(StatusToGrpcTest, OverloadSaysWhenToComeBack) {
  EXPECT_TRUE(HasRetryInfo(ToGrpcStatus(absl::ResourceExhaustedError("queue full"))));
  EXPECT_TRUE(HasRetryInfo(ToGrpcStatus(MakeError(v1::ERROR_REASON_DRAINING, "m"))));
  EXPECT_FALSE(HasRetryInfo(ToGrpcStatus(MakeError(v1::ERROR_REASON_STORE_FULL, "m"))));
  EXPECT_FALSE(HasRetryInfo(ToGrpcStatus(absl::NotFoundError("m"))));
}

TEST(StatusToGrpcTest, WhoeverWaitsForALeaseHearsHowLong) {
  using state_store::StoreError;
  const absl::Status busy = state_store::WithRetryAfter(
      state_store::MakeStoreError(StoreError::kSessionLeased, "m"), absl::Milliseconds(2500));
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(ToGrpcStatus(busy).error_details()));
  google::rpc::RetryInfo retry;
  for (const auto& any : details.details()) any.UnpackTo(&retry);
  EXPECT_EQ(retry.retry_delay().seconds(), 2);
  EXPECT_EQ(retry.retry_delay().nanos(), 500'000'000);
}

TEST(StatusToGrpcTest, MessagesAreBoundedAndValidUtf8) {
  for (const std::string& message :
       {std::string(100'000, 'x'), std::string(511, 'x') + "\xC3\xA9\xC3\xA9",
        std::string("bad \xFF\xC3 bytes")}) {
    const grpc::Status status = ToGrpcStatus(absl::InternalError(message));
    EXPECT_LE(status.error_message().size(), 512u);
    EXPECT_TRUE(models::IsValidUtf8(status.error_message()));
  }
}

TEST(StatusToGrpcTest, DetailsStayBelowWhatClientsAccept) {
  FieldViolations violations;
  for (int i = 0; i < 1000; ++i) violations.Add(std::string(500, 'f'), std::string(5000, 'd'));
  const grpc::Status status = ToGrpcStatus(violations.ToStatus());
  EXPECT_EQ(FieldsIn(status).size(), 12u);
  EXPECT_LT(status.error_message().size() + status.error_details().size() * 4 / 3, 8000u);
  EXPECT_EQ(ReasonIn(status), "INVALID_FIELD");
}

TEST(StatusToGrpcTest, WhatDoesNotFitIsLeftOutButNotTheReason) {
  absl::Status status = MakeError(v1::ERROR_REASON_SESSION_BUSY, "busy");
  for (const char* name : {"A", "B", "Z"}) {
    status.SetPayload(std::string(kDetailPrefix) + name, absl::Cord(std::string(3000, 'x')));
  }
  const grpc::Status wire = ToGrpcStatus(status);
  EXPECT_EQ(ReasonIn(wire), "SESSION_BUSY");
  EXPECT_LT(wire.error_details().size(), 4500u);
}

TEST(StatusToGrpcTest, ViolationsKeepTheirOrder) {
  FieldViolations violations;
  EXPECT_TRUE(violations.ToStatus().ok());
  violations.Add("b", "first");
  violations.Add("a", "second");
  const grpc::Status status = ToGrpcStatus(violations.ToStatus());
  EXPECT_THAT(FieldsIn(status), ElementsAre("b", "a"));
  EXPECT_EQ(status.error_message(), "b: first (and 1 more)");
}

}  // namespace
}  // namespace reprise::service
