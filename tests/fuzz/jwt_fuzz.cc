// JSON Web Tokens and key sets from anyone. The first byte chooses: a whole token, a key set, or
// the claims or the header of a token that is then signed, so that what lies behind the signature
// is reached too.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "service/auth/jwt.h"
#include "tests/service/testing/jwt_signer.h"

namespace reprise::service {
namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

struct Issuer {
  testing::JwtSigner signer{"EdDSA", "k"};
  Jwks jwks = ParseJwks(signer.jwks()).value();
  JwtRules rules{"i", "a", "tenant", absl::Seconds(30)};
  std::string good =
      signer.Sign(R"({"iss":"i","aud":"a","sub":"s","tenant":"t","exp":2000000000})");
};

void Check(const absl::StatusOr<Identity>& identity) {
  if (identity.ok()) {
    Require(IsTenantName(identity->tenant) && identity->subject.size() < 256);
  } else {
    Require(absl::IsUnauthenticated(identity.status()) ||
            absl::IsPermissionDenied(identity.status()));
  }
}

void RunOne(uint8_t choice, const std::string& text) {
  static const Issuer& issuer = *new Issuer;
  const absl::Time now = absl::FromUnixSeconds(1'900'000'000);
  switch (choice % 4) {
    case 0: {
      const auto identity = VerifyJwt(text, issuer.jwks, issuer.rules, now);
      Check(identity);
      // Nobody forges; a good token is good only as it is.
      Require(!identity.ok() || text == issuer.good);
      break;
    }
    case 1: {
      const auto jwks = ParseJwks(text);
      Require(jwks.ok() || absl::IsInvalidArgument(jwks.status()));
      if (jwks.ok()) Check(VerifyJwt(issuer.good, *jwks, issuer.rules, now));
      break;
    }
    case 2:
      Check(VerifyJwt(issuer.signer.Sign(text), issuer.jwks, issuer.rules, now));
      break;
    default:
      Check(VerifyJwt(issuer.signer.Sign(R"({"tenant":"t"})", text.empty() ? " " : text),
                      issuer.jwks, issuer.rules, now));
  }
}

}  // namespace
}  // namespace reprise::service

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  reprise::service::RunOne(data[0], std::string(reinterpret_cast<const char*>(data + 1), size - 1));
  return 0;
}
