// TLS and client certificates, on a real port.
#include <gmock/gmock.h>
#include <google/protobuf/empty.pb.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "service/auth/token_file.h"
#include "service/tls_credentials.h"
#include "tests/models/testing/random_checkpoint.h"
#include "tests/service/testing/certificates.h"
#include "tests/service/testing/raw_call.h"
#include "tests/service/testing/test_server.h"

namespace reprise::service {
namespace {

using ::testing::HasSubstr;
using testing::PemPair;
using testing::RawAnswer;
using testing::RawCall;
using testing::ReasonIn;
using testing::TestAuthority;
using testing::TestServer;

constexpr char kReflection[] = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
constexpr char kListServices[] = "\x3A\x01*";
constexpr char kHealth[] = "/grpc.health.v1.Health/Check";

class TlsTest : public ::testing::Test {
 protected:
  std::string Path(const std::string& name) const { return folder_.path() + "/" + name; }
  void Write(const std::string& name, const std::string& text) {
    // As an orchestrator does it: the new file takes the old one's place.
    std::ofstream(Path(name + ".new")) << text;
    std::filesystem::rename(Path(name + ".new"), Path(name));
  }
  void WritePair(const PemPair& pair) {
    Write("cert", pair.certificate);
    Write("key", pair.key);
  }

  TestServer::Options Options(bool client_ca = false) {
    auto options = TestServer::SmallOptions();
    options.server.tls.certificate_file = Path("cert");
    options.server.tls.key_file = Path("key");
    if (client_ca) {
      Write("client-ca", clients_.pem());
      options.server.tls.client_ca_file = Path("client-ca");
      options.server.auth.client_certificates = true;
      Write("tenants", R"({"tenants": {"acme": {"certificates": ["dns:acme.example"]},
                                       "rival": {"certificates": ["cn:rival"]}}})");
      options.server.auth.tenants_file = Path("tenants");
    }
    return options;
  }

  static std::shared_ptr<grpc::Channel> Connect(TestServer& server, const std::string& roots,
                                                const PemPair& own = {}) {
    grpc::SslCredentialsOptions ssl;
    ssl.pem_root_certs = roots;
    ssl.pem_cert_chain = own.certificate;
    ssl.pem_private_key = own.key;
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return grpc::CreateCustomChannel("localhost:" + std::to_string(server.server().port()),
                                     grpc::SslCredentials(ssl), arguments);
  }

  static grpc::Status List(const std::shared_ptr<grpc::Channel>& channel,
                           const std::string& bearer = "") {
    grpc::ClientContext context;
    if (!bearer.empty()) context.AddMetadata("authorization", "Bearer " + bearer);
    v1::ListSessionsResponse response;
    return v1::SessionService::NewStub(channel)->ListSessions(&context, {}, &response);
  }
  static grpc::Status Create(const std::shared_ptr<grpc::Channel>& channel, const std::string& id) {
    grpc::ClientContext context;
    v1::CreateSessionRequest request;
    request.set_session_id(id);
    v1::Session session;
    return v1::SessionService::NewStub(channel)->CreateSession(&context, request, &session);
  }
  // Until new connections that trust `roots` work; false after kPatience.
  static bool AwaitServes(TestServer& server, const std::string& roots) {
    const absl::Time limit = absl::Now() + testing::kPatience;
    while (!List(Connect(server, roots)).ok()) {
      if (absl::Now() > limit) return false;
      absl::SleepFor(absl::Milliseconds(50));
    }
    return true;
  }

  models::testing::TempDir folder_;
  TestAuthority servers_{"servers"}, clients_{"clients"};
};

TEST_F(TlsTest, OnlyClientsThatTrustTheAuthorityConnect) {
  WritePair(servers_.Issue("reprise"));
  TestServer server(Options());
  EXPECT_TRUE(List(Connect(server, servers_.pem())).ok());
  EXPECT_EQ(List(Connect(server, clients_.pem())).error_code(), grpc::StatusCode::UNAVAILABLE);
  const auto plain = grpc::CreateChannel("127.0.0.1:" + std::to_string(server.server().port()),
                                         grpc::InsecureChannelCredentials());
  EXPECT_EQ(List(plain).error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(TlsTest, ACertificateIsItsTenant) {
  WritePair(servers_.Issue("reprise"));
  TestServer server(Options(true));
  const auto acme = Connect(server, servers_.pem(), clients_.Issue("worker-1", "DNS:acme.example"));
  const auto rival = Connect(server, servers_.pem(), clients_.Issue("rival"));
  const auto stranger = Connect(server, servers_.pem(), clients_.Issue("stranger"));
  EXPECT_TRUE(Create(acme, "chat").ok());
  EXPECT_EQ(Create(acme, "chat").error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_TRUE(Create(rival, "chat").ok()) << "another tenant's name is free";
  const grpc::Status refused = Create(stranger, "chat");
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(ReasonIn(refused), "PERMISSION_DENIED");
}

TEST_F(TlsTest, WithoutACertificateOfTheAuthorityThereIsNoConnection) {
  WritePair(servers_.Issue("reprise"));
  TestServer server(Options(true));
  EXPECT_EQ(List(Connect(server, servers_.pem())).error_code(), grpc::StatusCode::UNAVAILABLE);
  const PemPair foreign = servers_.Issue("rival");
  EXPECT_EQ(List(Connect(server, servers_.pem(), foreign)).error_code(),
            grpc::StatusCode::UNAVAILABLE);
  const PemPair late = clients_.Issue("rival", "", -absl::Hours(2), -absl::Hours(1));
  EXPECT_EQ(List(Connect(server, servers_.pem(), late)).error_code(),
            grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(List(Connect(server, servers_.pem(), clients_.Issue("rival"))).ok());
}

TEST_F(TlsTest, WhereCertificatesAreOptionalATokenWillDo) {
  WritePair(servers_.Issue("reprise"));
  const NewToken token = MakeToken("t", "acme", Right::kUser).value();
  const NewToken admin = MakeToken("root", "acme", Right::kAdmin).value();
  Write("tokens", token.line + "\n" + admin.line);
  auto options = Options(true);
  options.server.tls.require_client_certificate = false;
  options.server.auth.token_file = Path("tokens");
  TestServer server(options);
  const auto bare = Connect(server, servers_.pem());
  EXPECT_TRUE(List(bare, token.token).ok());
  EXPECT_EQ(List(bare).error_code(), grpc::StatusCode::UNAUTHENTICATED);
  const auto rival = Connect(server, servers_.pem(), clients_.Issue("rival"));
  EXPECT_TRUE(List(rival).ok());
  EXPECT_EQ(List(rival, token.token).error_code(), grpc::StatusCode::PERMISSION_DENIED)
      << "a stolen token";
  EXPECT_EQ(
      List(Connect(server, servers_.pem(), servers_.Issue("rival")), token.token).error_code(),
      grpc::StatusCode::UNAVAILABLE)
      << "a certificate that is shown is verified";
}

TEST_F(TlsTest, ReflectionIsForAdminsAndHealthForAllOrForNobodyElse) {
  WritePair(servers_.Issue("reprise"));
  const NewToken user = MakeToken("u", "acme", Right::kUser).value();
  const NewToken admin = MakeToken("a", "acme", Right::kAdmin).value();
  Write("tokens", user.line + "\n" + admin.line);
  const auto with = [](const std::string& token) {
    return testing::RawMetadata{{"authorization", "Bearer " + token}};
  };
  for (const bool open_health : {true, false}) {
    auto options = Options();
    options.server.auth.token_file = Path("tokens");
    options.server.auth.open_health = open_health;
    TestServer server(options);
    const auto channel = Connect(server, servers_.pem());
    EXPECT_EQ(RawCall(channel, kReflection, kListServices).status.error_code(),
              grpc::StatusCode::UNAUTHENTICATED);
    EXPECT_EQ(RawCall(channel, kReflection, kListServices, with("x")).status.error_code(),
              grpc::StatusCode::UNAUTHENTICATED);
    EXPECT_EQ(RawCall(channel, kReflection, kListServices, with(user.token)).status.error_code(),
              grpc::StatusCode::PERMISSION_DENIED);
    const RawAnswer listed = RawCall(channel, kReflection, kListServices, with(admin.token));
    EXPECT_TRUE(listed.status.ok()) << listed.status.error_message();
    EXPECT_THAT(listed.bytes, HasSubstr("reprise.v1.SessionService"));
    EXPECT_EQ(RawCall(channel, kHealth, "").status.error_code(),
              open_health ? grpc::StatusCode::OK : grpc::StatusCode::UNAUTHENTICATED);
    EXPECT_TRUE(RawCall(channel, kHealth, "", with(admin.token)).status.ok());
    // The services speak for themselves, with details.
    EXPECT_EQ(ReasonIn(List(channel)), "UNAUTHENTICATED");
    EXPECT_TRUE(List(channel, user.token).ok());
  }
}

TEST_F(TlsTest, ANewCertificateIsShownToNewConnections) {
  WritePair(servers_.Issue("old"));
  TestServer server(Options());
  const auto open = Connect(server, servers_.pem());
  ASSERT_TRUE(List(open).ok());
  TestAuthority others("others");
  WritePair(others.Issue("new"));
  server.server().Reload();
  EXPECT_TRUE(AwaitServes(server, others.pem()));
  EXPECT_TRUE(List(open).ok()) << "what is connected stays so";
}

TEST_F(TlsTest, FilesThatChangeAreReadWithoutBeingAskedTo) {
  WritePair(servers_.Issue("old"));
  TestServer server(Options());
  TestAuthority others("others");
  WritePair(others.Issue("new"));
  EXPECT_TRUE(AwaitServes(server, others.pem()));
}

TEST_F(TlsTest, AFileThatCannotBeUsedChangesNothing) {
  WritePair(servers_.Issue("reprise"));
  TlsSettings settings = Options(true).server.tls;
  auto tls = TlsCredentials::Create(settings);
  ASSERT_TRUE(tls.ok()) << tls.status();
  const PemPair good = servers_.Issue("reprise"), other = servers_.Issue("reprise");
  const auto refused = [&](const std::string& why) {
    const absl::Status status = (*tls)->Reload();
    EXPECT_FALSE(status.ok()) << why;
    EXPECT_THAT(std::string(status.message()), HasSubstr(why));
  };
  WritePair({good.certificate, other.key});
  refused("not that of the certificate");
  WritePair({good.certificate, "no key"});
  refused("not a PEM file of an unencrypted private key");
  WritePair({"", good.key});
  refused("not a PEM file of certificates");
  WritePair({good.certificate + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
             good.key});
  refused("not a PEM file of certificates");
  WritePair(servers_.Issue("late", "", -absl::Hours(2), -absl::Hours(1)));
  refused("has expired");
  WritePair(servers_.Issue("early", "", absl::Hours(1), absl::Hours(2)));
  refused("not valid yet");
  WritePair(good);
  Write("client-ca", "no authority");
  refused("--tls-client-ca");
  std::filesystem::remove(Path("client-ca"));
  refused("--tls-client-ca");
  Write("client-ca", clients_.pem());
  EXPECT_TRUE((*tls)->Reload().ok());
  std::filesystem::remove(Path("key"));
  refused("--tls-key");
}

TEST_F(TlsTest, ABrokenFileLeavesTheServerAsItWas) {
  WritePair(servers_.Issue("reprise"));
  TestServer server(Options());
  WritePair({servers_.Issue("a").certificate, servers_.Issue("b").key});
  server.server().Reload();
  // What gRPC looks at again after a second is still whole.
  absl::SleepFor(absl::Seconds(2.5));
  EXPECT_TRUE(List(Connect(server, servers_.pem())).ok());
}

}  // namespace
}  // namespace reprise::service
