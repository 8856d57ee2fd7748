// A server whose callers are tenants by bearer tokens, and the calls of each.
#ifndef REPRISE_TESTS_SERVICE_TESTING_TENANT_SERVER_H_
#define REPRISE_TESTS_SERVICE_TESTING_TENANT_SERVER_H_

#include <google/protobuf/descriptor.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "service/auth/token_file.h"
#include "tests/models/testing/random_checkpoint.h"
#include "tests/service/testing/raw_call.h"
#include "tests/service/testing/test_server.h"

namespace reprise::service::testing {

// Each method of the services of reprise.v1 in this program, whatever they are.
inline std::vector<const google::protobuf::MethodDescriptor*> AllMethods() {
  std::vector<const google::protobuf::MethodDescriptor*> methods;
  for (const std::string name :
       {v1::GenerationService::service_full_name(), v1::SessionService::service_full_name(),
        v1::ModelService::service_full_name()}) {
    const auto* service =
        google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(name);
    for (int i = 0; i < service->method_count(); ++i) methods.push_back(service->method(i));
  }
  return methods;
}

inline std::string PathOf(const google::protobuf::MethodDescriptor& method) {
  return "/" + std::string(method.service()->full_name()) + "/" + std::string(method.name());
}

class TenantServer {
 public:
  // `tenants_file`: the text of --tenants-file, "" for none.
  explicit TenantServer(const std::vector<std::string>& tenants,
                        const std::string& tenants_file = "",
                        TestServer::Options options = TestServer::SmallOptions()) {
    std::ofstream lines(folder_.path() + "/tokens");
    for (const std::string& tenant : tenants) {
      const NewToken token = MakeToken("t-" + tenant, tenant, Right::kUser).value();
      lines << token.line << "\n";
      tokens_[tenant] = token.token;
    }
    lines.close();
    options.server.auth.token_file = folder_.path() + "/tokens";
    if (!tenants_file.empty()) {
      WriteTenants(tenants_file);
      options.server.auth.tenants_file = folder_.path() + "/tenants";
    }
    server_ = std::make_unique<TestServer>(options);
  }

  void WriteTenants(const std::string& text) { std::ofstream(folder_.path() + "/tenants") << text; }

  TestServer& operator*() { return *server_; }
  TestServer* operator->() { return server_.get(); }

  std::string Bearer(const std::string& tenant) const { return "Bearer " + tokens_.at(tenant); }
  // The header of `tenant`; none for "".
  RawMetadata Metadata(const std::string& tenant) const {
    if (tenant.empty()) return {};
    return {{"authorization", Bearer(tenant)}};
  }
  std::unique_ptr<grpc::ClientContext> Context(const std::string& tenant) const {
    auto context = std::make_unique<grpc::ClientContext>();
    for (const auto& [key, value] : Metadata(tenant)) context->AddMetadata(key, value);
    return context;
  }

  Answer Generate(const std::string& tenant, const v1::GenerateRequest& request) {
    const auto context = Context(tenant);
    return ReadAll(server_->generation().Generate(context.get(), request).get());
  }
  grpc::Status Create(const std::string& tenant, const std::string& id) {
    const auto context = Context(tenant);
    v1::CreateSessionRequest request;
    request.set_session_id(id);
    v1::Session session;
    return server_->sessions().CreateSession(context.get(), request, &session);
  }
  grpc::Status Delete(const std::string& tenant, const std::string& id) {
    const auto context = Context(tenant);
    v1::DeleteSessionRequest request;
    request.set_name("sessions/" + id);
    google::protobuf::Empty empty;
    return server_->sessions().DeleteSession(context.get(), request, &empty);
  }

 private:
  models::testing::TempDir folder_;
  std::map<std::string, std::string> tokens_;
  std::unique_ptr<TestServer> server_;
};

}  // namespace reprise::service::testing

#endif  // REPRISE_TESTS_SERVICE_TESTING_TENANT_SERVER_H_
