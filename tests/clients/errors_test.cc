#include "clients/cli/errors.h"

#include <gtest/gtest.h>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace reprise::cli {
namespace {

class Failure {
 public:
  Failure(grpc::StatusCode code, const std::string& message) : code_(code), message_(message) {
    details_.set_code(code);
    details_.set_message(message);
  }
  Failure& Reason(const std::string& reason, std::map<std::string, std::string> metadata = {}) {
    google::rpc::ErrorInfo info;
    info.set_reason(reason);
    info.set_domain("reprise.dev");
    for (const auto& [key, value] : metadata) (*info.mutable_metadata())[key] = value;
    details_.add_details()->PackFrom(info);
    return *this;
  }
  Failure& Field(const std::string& field, const std::string& description) {
    google::rpc::BadRequest bad;
    auto* violation = bad.add_field_violations();
    violation->set_field(field);
    violation->set_description(description);
    details_.add_details()->PackFrom(bad);
    return *this;
  }
  Failure& Resource(const std::string& name) {
    google::rpc::ResourceInfo resource;
    resource.set_resource_name(name);
    details_.add_details()->PackFrom(resource);
    return *this;
  }
  Failure& Retry(int nanos) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_nanos(nanos);
    details_.add_details()->PackFrom(retry);
    return *this;
  }
  ErrorReport Explained() const {
    return Explain(FromRpc(grpc::Status(code_, message_, details_.SerializeAsString())));
  }

 private:
  grpc::StatusCode code_;
  std::string message_;
  google::rpc::Status details_;
};

TEST(Errors, ReasonFieldAndHintInOneLine) {
  const ErrorReport report = Failure(grpc::StatusCode::INVALID_ARGUMENT, "bad request")
                                 .Reason("INVALID_FIELD")
                                 .Field("sampling.top_p", "must be in (0, 1]")
                                 .Explained();
  EXPECT_EQ(report.exit_code, kExitRefused);
  EXPECT_EQ(ErrorLine(report),
            "INVALID_ARGUMENT (INVALID_FIELD): bad request; sampling.top_p: must be in (0, 1]");
}

TEST(Errors, AFieldThatTheMessageTellsIsNotRepeated) {
  const ErrorReport report =
      Failure(grpc::StatusCode::INVALID_ARGUMENT, "sampling.top_p: must be in (0, 1]")
          .Field("sampling.top_p", "must be in (0, 1]")
          .Explained();
  EXPECT_EQ(ErrorLine(report), "INVALID_ARGUMENT: sampling.top_p: must be in (0, 1]");
}

TEST(Errors, AFieldGoesBeforeItsDescription) {
  const ErrorReport report = Failure(grpc::StatusCode::INVALID_ARGUMENT, "must be in (0, 1]")
                                 .Field("sampling.top_p", "must be in (0, 1]")
                                 .Explained();
  EXPECT_EQ(ErrorLine(report), "INVALID_ARGUMENT: sampling.top_p: must be in (0, 1]");
}

TEST(Errors, AResourceIsNamedOnce) {
  const auto line = [](const std::string& message) {
    return ErrorLine(
        Failure(grpc::StatusCode::NOT_FOUND, message).Resource("sessions/x").Explained());
  };
  EXPECT_EQ(line("not found"), "NOT_FOUND: not found (sessions/x)");
  EXPECT_EQ(line("no \"x\" here"), "NOT_FOUND: no \"x\" here");
}

TEST(Errors, HintsSpeakOfThisProgram) {
  const ErrorReport report =
      Failure(grpc::StatusCode::NOT_FOUND, "no session").Reason("SESSION_NOT_FOUND").Explained();
  EXPECT_EQ(report.exit_code, kExitNotFound);
  EXPECT_NE(report.hint.find("reprise sessions list"), std::string::npos);
}

TEST(Errors, RetryDelayBecomesTheHint) {
  const ErrorReport report = Failure(grpc::StatusCode::RESOURCE_EXHAUSTED, "queue is full")
                                 .Reason("QUEUE_FULL")
                                 .Retry(250'000'000)
                                 .Explained();
  EXPECT_EQ(report.exit_code, kExitTryLater);
  EXPECT_EQ(ErrorLine(report),
            "RESOURCE_EXHAUSTED (QUEUE_FULL): queue is full; hint: try again in 0.25 s");
}

TEST(Errors, UnavailableWithAReasonIsNotALostConnection) {
  EXPECT_EQ(Failure(grpc::StatusCode::UNAVAILABLE, "x").Reason("DRAINING").Explained().exit_code,
            kExitTryLater);
  EXPECT_EQ(Failure(grpc::StatusCode::UNAVAILABLE, "x").Explained().exit_code, kExitUnreachable);
}

TEST(Errors, ExitCodes) {
  const auto code = [](grpc::StatusCode c) { return Failure(c, "x").Explained().exit_code; };
  EXPECT_EQ(code(grpc::StatusCode::ABORTED), kExitConflict);
  EXPECT_EQ(code(grpc::StatusCode::DEADLINE_EXCEEDED), kExitDeadline);
  EXPECT_EQ(code(grpc::StatusCode::DATA_LOSS), kExitServerFault);
  EXPECT_EQ(code(grpc::StatusCode::INTERNAL), kExitServerFault);
  EXPECT_EQ(code(grpc::StatusCode::FAILED_PRECONDITION), kExitRefused);
}

TEST(Errors, LocalFailuresAreToldApart) {
  EXPECT_EQ(Explain(UsageError("no")).exit_code, kExitUsage);
  EXPECT_EQ(Explain(Unreachable("no")).exit_code, kExitUnreachable);
  EXPECT_EQ(Explain(Interrupted("no")).exit_code, kExitInterrupted);
  EXPECT_EQ(Explain(absl::NotFoundError("no file")).exit_code, kExitLocal);
  EXPECT_EQ(ErrorLine(Explain(absl::NotFoundError("no file"))), "no file");
}

TEST(Errors, UnreadableDetailsDoNotHideTheMessage) {
  const ErrorReport report =
      Explain(FromRpc(grpc::Status(grpc::StatusCode::NOT_FOUND, "two\nlines", "\xff\xff")));
  EXPECT_EQ(ErrorLine(report), "NOT_FOUND: two lines");
}

TEST(Errors, Json) {
  const Json json = ErrorJson(Failure(grpc::StatusCode::ABORTED, "moved on")
                                  .Reason("VERSION_MISMATCH", {{"expected", "3"}, {"found", "4"}})
                                  .Explained());
  EXPECT_EQ(json["error"]["exit_code"], kExitConflict);
  EXPECT_EQ(json["error"]["code"], "ABORTED");
  EXPECT_EQ(json["error"]["reason"], "VERSION_MISMATCH");
  EXPECT_EQ(json["error"]["metadata"]["found"], "4");
  EXPECT_TRUE(json["error"]["fields"].is_array());
}

}  // namespace
}  // namespace reprise::cli
