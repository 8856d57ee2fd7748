// reprise health: the standard gRPC health check.
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "clients/cli/commands.h"
#include "grpc/health/v1/health.grpc.pb.h"

namespace reprise::cli {
namespace {

using Health = grpc::health::v1::Health;

absl::Status RunHealth(Env& env, const std::string& service) {
  RETURN_IF_ERROR(env.Connect());
  const std::unique_ptr<Health::StubInterface> stub = Health::NewStub(env.channel());
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(service);
  ASSIGN_OR_RETURN(grpc::health::v1::HealthCheckResponse response,
                   env.Call(*stub, &Health::StubInterface::Check, request));
  const std::string status =
      grpc::health::v1::HealthCheckResponse::ServingStatus_Name(response.status());
  if (env.options.json) {
    env.PrintJson({{"server", env.options.server}, {"service", service}, {"status", status}});
  } else {
    env.Print(absl::StrCat(status, "\n"));
  }
  if (response.status() == grpc::health::v1::HealthCheckResponse::SERVING) return absl::OkStatus();
  return FromRpc(grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "the server is not serving"));
}

}  // namespace

void AddHealthCommand(CLI::App& app, Env& env) {
  auto service = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("health", "Whether the server takes requests");
  command->add_option("service", *service, "A service's name (default: the whole server)");
  command->callback(
      [service, &env] { env.run = [service, &env] { return RunHealth(env, *service); }; });
}

}  // namespace reprise::cli
