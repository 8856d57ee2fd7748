#include "service/auth/jwt.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/hmac.h>

#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "tests/service/testing/jwt_signer.h"

namespace reprise::service {
namespace {

using ::testing::HasSubstr;
using testing::JwtSigner;
using testing::SignedPart;
using testing::ToBase64Url;

const absl::Time kNow = absl::FromUnixSeconds(1'800'000'000);

JwtRules Rules() {
  JwtRules rules;
  rules.issuer = "https://issuer.example";
  rules.audience = "reprise";
  rules.skew = absl::Seconds(30);
  return rules;
}

// Good claims; `change` replaces or adds members, as JSON without braces. The last of two counts.
std::string Claims(const std::string& change = "") {
  return R"({"iss":"https://issuer.example","aud":"reprise","sub":"alice","tenant":"acme",)"
         R"("exp":1800000600,"nbf":1799999000)" +
         (change.empty() ? "" : "," + change) + "}";
}

absl::StatusOr<Identity> Verify(const std::string& token, const JwtSigner& signer,
                                absl::Time now = kNow) {
  const auto jwks = ParseJwks(signer.jwks());
  EXPECT_TRUE(jwks.ok()) << jwks.status();
  return VerifyJwt(token, *jwks, Rules(), now);
}

class JwtAlgorithmTest : public ::testing::TestWithParam<std::string> {};

TEST_P(JwtAlgorithmTest, AGoodTokenIsItsTenants) {
  const JwtSigner signer(GetParam(), "k1");
  const auto identity = Verify(signer.Sign(Claims()), signer);
  ASSERT_TRUE(identity.ok()) << identity.status();
  EXPECT_EQ(identity->tenant, "acme");
  EXPECT_EQ(identity->subject, "jwt:alice");
  EXPECT_EQ(identity->right, Right::kUser);
}

TEST_P(JwtAlgorithmTest, EveryFlippedBitOfTheSignatureIsNoticed) {
  const JwtSigner signer(GetParam(), "k1");
  const std::string token = signer.Sign(Claims());
  const std::string text = token.substr(0, token.rfind('.'));
  std::string signature;
  ASSERT_TRUE(absl::WebSafeBase64Unescape(token.substr(text.size() + 1), &signature));
  const auto jwks = ParseJwks(signer.jwks()).value();
  for (size_t bit = 0; bit < 8 * signature.size(); ++bit) {
    std::string changed = signature;
    changed[bit / 8] = static_cast<char>(changed[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_FALSE(VerifyJwt(text + "." + ToBase64Url(changed), jwks, Rules(), kNow).ok()) << bit;
  }
  EXPECT_FALSE(Verify(text + ".", signer).ok());
  EXPECT_FALSE(Verify(text + "." + ToBase64Url(signature + "x"), signer).ok());
}

TEST_P(JwtAlgorithmTest, ClaimsOfAnotherTokenDoNotFitItsSignature) {
  const JwtSigner signer(GetParam(), "k1");
  const std::string token = signer.Sign(Claims());
  const std::string other = SignedPart(signer.header(), Claims(R"("tenant":"rival")"));
  EXPECT_FALSE(Verify(other + token.substr(token.rfind('.')), signer).ok());
}

TEST_P(JwtAlgorithmTest, AKeyOfTheSameIdThatIsAnotherDoesNotFit) {
  const JwtSigner signer(GetParam(), "k1"), other(GetParam(), "k1");
  EXPECT_FALSE(Verify(signer.Sign(Claims()), other).ok());
}

INSTANTIATE_TEST_SUITE_P(All, JwtAlgorithmTest, ::testing::Values("RS256", "ES256", "EdDSA"));

TEST(JwtTest, TheAlgorithmIsTheKeysAndNoOther) {
  const JwtSigner rsa("RS256", "k1");
  // The public key, which everybody has, as the secret of an HMAC.
  const std::string text = SignedPart(R"({"alg":"HS256","kid":"k1","typ":"JWT"})", Claims());
  const std::string secret = rsa.PublicPem();
  unsigned char mac[32];
  HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()),
       reinterpret_cast<const unsigned char*>(text.data()), text.size(), mac, nullptr);
  EXPECT_FALSE(
      Verify(text + "." + ToBase64Url(std::string(reinterpret_cast<char*>(mac), 32)), rsa).ok());
  for (const std::string algorithm :
       {"none", "None", "NONE", "", "RS512", "PS256", "ES256", "EdDSA", "HS512", "rs256"}) {
    const std::string header = R"({"alg":")" + algorithm + R"(","kid":"k1"})";
    EXPECT_FALSE(Verify(rsa.Sign(Claims(), header), rsa).ok()) << algorithm;
    EXPECT_FALSE(Verify(SignedPart(header, Claims()) + ".", rsa).ok()) << algorithm;
  }
  // The signature is good, and the algorithm the right one; the header only fails to say so.
  EXPECT_FALSE(Verify(rsa.Sign(Claims(), R"({"kid":"k1"})"), rsa).ok());
  EXPECT_FALSE(Verify(rsa.Sign(Claims(), R"({"alg":5,"kid":"k1"})"), rsa).ok());
  EXPECT_TRUE(Verify(rsa.Sign(Claims(), R"({"alg":"RS256","kid":"k1"})"), rsa).ok());
}

TEST(JwtTest, HeadersThatAreNotUnderstoodAreRefused) {
  const JwtSigner signer("EdDSA", "k1");
  for (const std::string header :
       {R"({"alg":"EdDSA","kid":"k2"})", R"({"alg":"EdDSA"})", R"({"alg":"EdDSA","kid":["k1"]})",
        R"({"alg":"EdDSA","kid":"k1","crit":["exp"]})", R"({"alg":"EdDSA","kid":"k1","typ":"JWE"})",
        R"({"alg":"EdDSA","kid":"k1","typ":7})", R"(["EdDSA"])", R"({"alg":"EdDSA","kid":"k1")",
        "null", ""}) {
    const auto identity = Verify(signer.Sign(Claims(), header.empty() ? " " : header), signer);
    EXPECT_TRUE(absl::IsUnauthenticated(identity.status())) << header;
    // Nothing says what was wrong with a token that nobody has signed.
    EXPECT_EQ(identity.status().message(), "the token is not valid") << header;
  }
  EXPECT_TRUE(
      Verify(signer.Sign(Claims(), R"({"alg":"EdDSA","kid":"k1","typ":"at+jwt"})"), signer).ok());
}

TEST(JwtTest, AKeyThatTheTokenBringsAlongIsNoKey) {
  const JwtSigner signer("EdDSA", "k1"), stranger("EdDSA", "k1");
  for (const std::string& bring :
       {"\"jwk\":" + stranger.jwk(), std::string(R"("jku":"https://evil.example/keys")"),
        std::string(R"("x5u":"https://evil.example/cert")"), std::string(R"("x5c":["AAAA"])")}) {
    const std::string header = R"({"alg":"EdDSA","kid":"k1",)" + bring + "}";
    EXPECT_FALSE(Verify(stranger.Sign(Claims(), header), signer).ok()) << bring;
    EXPECT_TRUE(Verify(signer.Sign(Claims(), header), signer).ok()) << bring;
  }
}

TEST(JwtTest, TextsThatAreNoTokens) {
  const JwtSigner signer("EdDSA", "k1");
  const std::string good = signer.Sign(Claims());
  const size_t first = good.find('.');
  for (const std::string& token : std::vector<std::string>{
           "", ".", "..", "...", "a.b.c", good + ".", "." + good, good + "=", good + " ",
           " " + good, good.substr(0, first), good.substr(first + 1), good + "." + good,
           good.substr(0, good.rfind('.')), good.substr(0, first) + "=" + good.substr(first),
           good + std::string(1, '\0')}) {
    EXPECT_TRUE(absl::IsUnauthenticated(Verify(token, signer).status())) << token;
  }
}

TEST(JwtTest, ATokenMayBeLongButNotAnyLength) {
  const JwtSigner signer("EdDSA", "k1");
  EXPECT_TRUE(
      Verify(signer.Sign(Claims("\"pad\":\"" + std::string(4000, 'x') + "\"")), signer).ok());
  EXPECT_FALSE(
      Verify(signer.Sign(Claims("\"pad\":\"" + std::string(9000, 'x') + "\"")), signer).ok());
}

struct ClaimCase {
  std::string change;
  absl::StatusCode code;
  std::string message;
};

TEST(JwtTest, ClaimsAreChecked) {
  using Code = absl::StatusCode;
  const JwtSigner signer("ES256", "k1");
  const ClaimCase cases[] = {
      {R"("exp":1799999970)", Code::kUnauthenticated, "expired"},
      {R"("exp":1799999971)", Code::kOk, ""},  // within the skew
      {R"("exp":"1800000600")", Code::kUnauthenticated, "not numbers"},
      {R"("exp":null)", Code::kUnauthenticated, "not numbers"},
      {R"("exp":-1)", Code::kUnauthenticated, "expired"},
      {R"("exp":1e300)", Code::kOk, ""},
      {R"("exp":1e999)", Code::kUnauthenticated, ""},
      {R"("exp":-1e300)", Code::kUnauthenticated, "expired"},
      {R"("nbf":1800000030)", Code::kOk, ""},
      {R"("nbf":1800000031)", Code::kUnauthenticated, "not valid yet"},
      {R"("nbf":true)", Code::kUnauthenticated, "not numbers"},
      {R"("iss":"https://issuer.example/")", Code::kUnauthenticated, "another issuer"},
      {R"("iss":["https://issuer.example"])", Code::kUnauthenticated, "another issuer"},
      {R"("aud":"other")", Code::kUnauthenticated, "another audience"},
      {R"("aud":["other","reprise"])", Code::kOk, ""},
      {R"("aud":["other",{"reprise":1}])", Code::kUnauthenticated, "another audience"},
      {R"("aud":{"reprise":1})", Code::kUnauthenticated, "another audience"},
      {R"("aud":[])", Code::kUnauthenticated, "another audience"},
      {R"("tenant":"")", Code::kPermissionDenied, "no tenant"},
      {R"("tenant":["acme"])", Code::kPermissionDenied, "no tenant"},
      {R"("tenant":"a b")", Code::kPermissionDenied, "no tenant"},
      {R"("tenant":"a{b}")", Code::kPermissionDenied, "no tenant"},
      {R"("tenant":"a\u0000b")", Code::kPermissionDenied, "no tenant"},
      {R"("tenant":")" + std::string(129, 'a') + "\"", Code::kPermissionDenied, "no tenant"},
      {R"("sub":7)", Code::kOk, ""},
  };
  for (const ClaimCase& c : cases) {
    const auto identity = Verify(signer.Sign(Claims(c.change)), signer);
    EXPECT_EQ(identity.status().code(), c.code) << c.change << " " << identity.status();
    EXPECT_THAT(std::string(identity.status().message()), HasSubstr(c.message)) << c.change;
  }
  for (const std::string missing : {"iss", "aud", "exp", "tenant"}) {
    std::string claims = Claims();
    claims.replace(claims.find("\"" + missing), missing.size() + 2, "\"other\"");
    EXPECT_FALSE(Verify(signer.Sign(claims), signer).ok()) << missing;
  }
}

TEST(JwtTest, TheRightOfAnAdminIsAWordOfTheScope) {
  const JwtSigner signer("EdDSA", "k1");
  const auto right = [&](const std::string& scope) {
    return Verify(signer.Sign(Claims("\"scope\":" + scope)), signer)->right;
  };
  EXPECT_EQ(right(R"("read reprise.admin")"), Right::kAdmin);
  EXPECT_EQ(right(R"("reprise.administrator")"), Right::kUser);
  EXPECT_EQ(right(R"(["reprise.admin"])"), Right::kUser);
}

TEST(JwtTest, TheTenantMayBeInAnotherClaim) {
  const JwtSigner signer("EdDSA", "k1");
  JwtRules rules = Rules();
  rules.tenant_claim = "https://example.com/org";
  const auto jwks = ParseJwks(signer.jwks());
  const std::string claims = Claims(R"("https://example.com/org":"umbrella")");
  EXPECT_EQ(VerifyJwt(signer.Sign(claims), *jwks, rules, kNow)->tenant, "umbrella");
}

TEST(JwksTest, OnlyKeysThatMayVerifyAreTaken) {
  const JwtSigner rsa("RS256", "r"), ec("ES256", "e"), ed("EdDSA", "d");
  const std::string others =
      R"({"kty":"oct","kid":"s","k":"c2VjcmV0"},{"kty":"EC","crv":"P-384","kid":"x","x":"","y":""},)"
      R"({"kty":"RSA","use":"enc","kid":"c"},{"kty":"RSA","alg":"RS512","kid":"z"},{})";
  const auto jwks =
      ParseJwks("{\"keys\":[" + others + "," + rsa.jwk() + "," + ec.jwk() + "," + ed.jwk() + "]}");
  ASSERT_TRUE(jwks.ok()) << jwks.status();
  ASSERT_EQ(jwks->size(), 3u);
  EXPECT_EQ(jwks->at("r").algorithm, JwtAlgorithm::kRs256);
  EXPECT_EQ(jwks->at("e").algorithm, JwtAlgorithm::kEs256);
  EXPECT_EQ(jwks->at("d").algorithm, JwtAlgorithm::kEdDsa);
}

TEST(JwksTest, DamagedSetsAreRefused) {
  const JwtSigner rsa("RS256", "r"), ec("ES256", "e");
  const std::string zeros = ToBase64Url(std::string(32, '\0'));
  const std::string even = ToBase64Url("\x80" + std::string(255, '\0'));
  for (const std::string& text : std::vector<std::string>{
           "", "{", "[]", "{}", R"({"keys":{}})", R"({"keys":[]})", R"({"keys":[7]})",
           "{\"keys\":[" + rsa.jwk() + "," + rsa.jwk() + "]}",
           R"({"keys":[{"kty":"RSA","kid":"r","n":"AQAB","e":"AQAB"}]})",
           R"({"keys":[{"kty":"RSA","kid":"r","n":")" + even + R"(","e":"AQAB"}]})",
           R"({"keys":[{"kty":"EC","crv":"P-256","kid":"e","x":")" + zeros + R"(","y":")" + zeros +
               R"("}]})",
           R"({"keys":[{"kty":"OKP","crv":"Ed25519","kid":"d","x":"AAAA"}]})",
           R"({"keys":[{"kty":"OKP","crv":"Ed25519","x":")" + zeros + R"("}]})",
           R"({"keys":[{"kty":"oct","kid":"s","k":"c2VjcmV0"}]})"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseJwks(text).status())) << text;
  }
  EXPECT_FALSE(ParseJwks(JwtSigner("RS256", "weak", 1024).jwks()).ok());
}

}  // namespace
}  // namespace reprise::service
