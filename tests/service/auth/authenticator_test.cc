#include "service/auth/authenticator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

#include "tests/models/testing/random_checkpoint.h"
#include "tests/service/testing/jwt_signer.h"

namespace reprise::service {
namespace {

using ::testing::HasSubstr;

class AuthenticatorTest : public ::testing::Test {
 protected:
  AuthenticatorTest()
      : acme_(MakeToken("acme-1", "acme", Right::kUser).value()),
        rival_(MakeToken("rival-1", "rival", Right::kUser).value()) {}

  std::string Write(const std::string& name, const std::string& text) {
    const std::string path = folder_.path() + "/" + name;
    std::ofstream(path) << text;
    return path;
  }

  AuthSettings Settings() {
    AuthSettings settings;
    settings.token_file = Write("tokens", acme_.line + "\n" + rival_.line);
    settings.tenants_file = Write("tenants", R"({"tenants": {"acme": {"certificates": ["cn:acme"]},
      "rival": {"certificates": ["cn:rival"]}, "gone": {"disabled": true, "certificates": ["cn:gone"]}}})");
    settings.client_certificates = true;
    return settings;
  }

  static absl::StatusOr<Identity> Ask(const Authenticator& auth, std::vector<std::string> headers,
                                      std::vector<std::string> certificate = {}) {
    CallCredentials credentials;
    for (const std::string& header : headers) credentials.authorization.push_back(header);
    credentials.certificate_names = std::move(certificate);
    return auth.Authenticate(credentials);
  }

  models::testing::TempDir folder_;
  FakeClock clock_;
  const NewToken acme_, rival_;
};

TEST_F(AuthenticatorTest, WithoutSettingsAllAreOneTenant) {
  const auto auth = Authenticator::Create({}, &clock_).value();
  EXPECT_FALSE(auth->required());
  EXPECT_EQ(Ask(*auth, {})->tenant, "default");
  EXPECT_EQ(Ask(*auth, {"Bearer x"})->tenant, "default") << "what is not verified has no say";
}

TEST_F(AuthenticatorTest, ATokenSaysWhoCalls) {
  const auto auth = Authenticator::Create(Settings(), &clock_).value();
  EXPECT_TRUE(auth->required());
  EXPECT_EQ(Ask(*auth, {"Bearer " + acme_.token})->tenant, "acme");
  EXPECT_EQ(Ask(*auth, {"bearer " + rival_.token})->tenant, "rival");
  for (const std::vector<std::string>& headers :
       std::vector<std::vector<std::string>>{{},
                                             {""},
                                             {"Bearer"},
                                             {"Bearer "},
                                             {acme_.token},
                                             {"Basic " + acme_.token},
                                             {"Bearer  " + acme_.token},
                                             {"Bearer " + acme_.token + " "},
                                             {"Bearer x.y.z"},
                                             {"Bearer " + acme_.token, "Bearer " + acme_.token},
                                             {"Bearer " + acme_.token, "Bearer " + rival_.token}}) {
    EXPECT_TRUE(absl::IsUnauthenticated(Ask(*auth, headers).status()));
  }
}

TEST_F(AuthenticatorTest, ACertificateSaysWhoCallsWhereNoTokenDoes) {
  AuthSettings settings = Settings();
  auto auth = Authenticator::Create(settings, &clock_).value();
  EXPECT_EQ(Ask(*auth, {}, {"dns:x", "cn:acme"})->tenant, "acme");
  EXPECT_EQ(Ask(*auth, {}, {"dns:x", "cn:acme"})->subject, "certificate:cn:acme");
  EXPECT_TRUE(absl::IsPermissionDenied(Ask(*auth, {}, {"cn:stranger"}).status()));
  EXPECT_TRUE(absl::IsPermissionDenied(Ask(*auth, {}, {"cn:gone"}).status()));
  // Neither a bad token nor two of them are made good by the certificate.
  EXPECT_TRUE(absl::IsUnauthenticated(Ask(*auth, {"Bearer x"}, {"cn:acme"}).status()));
  const std::string good = "Bearer " + acme_.token;
  EXPECT_TRUE(absl::IsUnauthenticated(Ask(*auth, {good, good}, {"cn:acme"}).status()));
  settings.certificate_tenant = "guests";
  auth = Authenticator::Create(settings, &clock_).value();
  EXPECT_EQ(Ask(*auth, {}, {"cn:stranger"})->tenant, "guests");
  EXPECT_EQ(Ask(*auth, {}, {"cn:acme"})->tenant, "acme");
}

TEST_F(AuthenticatorTest, AStolenTokenDoesNotWorkOnAnotherTenantsConnection) {
  const auto auth = Authenticator::Create(Settings(), &clock_).value();
  EXPECT_TRUE(
      absl::IsPermissionDenied(Ask(*auth, {"Bearer " + acme_.token}, {"cn:rival"}).status()));
  EXPECT_EQ(Ask(*auth, {"Bearer " + acme_.token}, {"cn:acme"})->tenant, "acme");
  EXPECT_EQ(Ask(*auth, {"Bearer " + acme_.token}, {"cn:proxy"})->tenant, "acme")
      << "a certificate of no tenant says nothing";
}

TEST_F(AuthenticatorTest, SignedTokensEndByTheClock) {
  const testing::JwtSigner signer("EdDSA", "k");
  AuthSettings settings;
  settings.jwks_file = Write("jwks", signer.jwks());
  settings.jwt_issuer = "i";
  settings.jwt_audience = "a";
  settings.jwt_tenant_claim = "org";
  settings.jwt_clock_skew = absl::Seconds(5);
  const auto auth = Authenticator::Create(settings, &clock_).value();
  const int64_t now = absl::ToUnixSeconds(clock_.Now());
  const std::string bearer =
      "Bearer " + signer.Sign(R"({"iss":"i","aud":"a","sub":"s","org":"acme","exp":)" +
                              std::to_string(now + 60) + "}");
  EXPECT_EQ(Ask(*auth, {bearer})->tenant, "acme");
  clock_.Advance(absl::Seconds(64));
  EXPECT_TRUE(Ask(*auth, {bearer}).ok());
  clock_.Advance(absl::Seconds(1));
  EXPECT_TRUE(absl::IsUnauthenticated(Ask(*auth, {bearer}).status()));
}

TEST_F(AuthenticatorTest, FilesAreReadAgainAndABrokenOneChangesNothing) {
  const auto auth = Authenticator::Create(Settings(), &clock_).value();
  const std::string bearer = "Bearer " + acme_.token;
  ASSERT_TRUE(Ask(*auth, {bearer}).ok());
  Write("tokens", acme_.line + "\nbroken");
  Write("tenants", R"({"tenants": {"rival": {"disabled": true}}})");
  const absl::Status reloaded = auth->Reload();
  EXPECT_THAT(std::string(reloaded.message()), HasSubstr("--token-file"));
  EXPECT_THAT(std::string(reloaded.message()), HasSubstr("line 2"));
  EXPECT_TRUE(Ask(*auth, {bearer}).ok()) << "the tokens are those from before";
  EXPECT_TRUE(absl::IsPermissionDenied(Ask(*auth, {"Bearer " + rival_.token}).status()))
      << "the file that is in order is in force";
  Write("tokens", rival_.line);
  EXPECT_TRUE(auth->Reload().ok());
  EXPECT_TRUE(absl::IsUnauthenticated(Ask(*auth, {bearer}).status())) << "revoked";
  unlink((folder_.path() + "/tenants").c_str());
  EXPECT_THAT(std::string(auth->Reload().message()), HasSubstr("--tenants-file"));
  EXPECT_TRUE(absl::IsPermissionDenied(Ask(*auth, {"Bearer " + rival_.token}).status()));
}

TEST_F(AuthenticatorTest, AFileThatCannotBeUsedEndsTheStart) {
  for (const char* content : {"broken", "{", ""}) {
    AuthSettings settings;
    settings.jwks_file = Write("bad", content);
    const auto auth = Authenticator::Create(settings, &clock_);
    EXPECT_THAT(std::string(auth.status().message()), HasSubstr("--jwks-file")) << content;
  }
  AuthSettings settings;
  settings.token_file = folder_.path() + "/nowhere";
  EXPECT_THAT(std::string(Authenticator::Create(settings, &clock_).status().message()),
              HasSubstr("--token-file"));
  settings.token_file = folder_.path();
  EXPECT_FALSE(Authenticator::Create(settings, &clock_).ok());
}

}  // namespace
}  // namespace reprise::service
