#include "absl/strings/str_cat.h"
#include "base/loopback.h"
#include "base/status_macros.h"
#include "service/flags/setters.h"
#include "service/flags/tables.h"

namespace reprise::service {
namespace {

absl::Status SetClientAuth(const std::string& text, ServerOptions* options) {
  if (text != "require" && text != "optional") return NotAllowed();
  options->tls.require_client_certificate = text == "require";
  return absl::OkStatus();
}

absl::Status Wrong(absl::string_view flag, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("--", flag, ": ", why));
}

// A flag that says nothing without another.
absl::Status Needs(const std::string& value, absl::string_view flag, bool other_given,
                   absl::string_view other) {
  if (value.empty() || other_given) return absl::OkStatus();
  return Wrong(flag, absl::StrCat("not allowed without --", other));
}

absl::Status CheckFiles(const TlsSettings& tls, const AuthSettings& auth) {
  RETURN_IF_ERROR(Needs(tls.certificate_file, "tls-cert", !tls.key_file.empty(), "tls-key"));
  RETURN_IF_ERROR(Needs(tls.key_file, "tls-key", tls.enabled(), "tls-cert"));
  RETURN_IF_ERROR(Needs(tls.client_ca_file, "tls-client-ca", tls.enabled(), "tls-cert"));
  RETURN_IF_ERROR(Needs(auth.certificate_tenant, "certificate-tenant", !tls.client_ca_file.empty(),
                        "tls-client-ca"));
  RETURN_IF_ERROR(Needs(auth.jwks_file, "jwks-file", !auth.jwt_issuer.empty(), "jwt-issuer"));
  RETURN_IF_ERROR(Needs(auth.jwks_file, "jwks-file", !auth.jwt_audience.empty(), "jwt-audience"));
  RETURN_IF_ERROR(Needs(auth.jwt_issuer, "jwt-issuer", !auth.jwks_file.empty(), "jwks-file"));
  return Needs(auth.jwt_audience, "jwt-audience", !auth.jwks_file.empty(), "jwks-file");
}

}  // namespace

std::vector<FlagSpec> SecurityFlags() {
  using O = ServerOptions;
  return {
      {"profile", "development", "development or production",
       "production demands TLS and that callers prove who they are, and has no reflection unless "
       "asked",
       false, OneOf(&O::wire, &WireSettings::profile, {"development", "production"})},
      {"insecure", "off", "on or off",
       "serve without TLS on an address that other machines can reach", false,
       OnOrOff(&O::wire, &WireSettings::insecure)},
      {"tls-cert", "", "a PEM file, with --tls-key",
       "certificate that clients are shown, and those that lead from it to its authority", false,
       Text(&O::tls, &TlsSettings::certificate_file)},
      {"tls-key", "", "a PEM file, with --tls-cert", "its private key", false,
       Text(&O::tls, &TlsSettings::key_file)},
      {"tls-client-ca", "", "a PEM file, with --tls-cert",
       "authorities of the certificates that clients show", false,
       Text(&O::tls, &TlsSettings::client_ca_file)},
      {"tls-client-auth", "require", "require or optional",
       "with --tls-client-ca: whether a client may come without a certificate and show a token "
       "only",
       false, SetClientAuth},
      {"certificate-tenant", "", "a tenant's name, with --tls-client-ca",
       "tenant of clients whose certificate --tenants-file does not name; not given: refused",
       false, Text(&O::auth, &AuthSettings::certificate_tenant)},
      {"token-file", "", "a file of lines that `reprised token` makes",
       "static bearer tokens, hashed", false, Text(&O::auth, &AuthSettings::token_file)},
      {"jwks-file", "", "a JSON file, with --jwt-issuer and --jwt-audience",
       "public keys of the issuer of JSON Web Tokens", false,
       Text(&O::auth, &AuthSettings::jwks_file)},
      {"jwt-issuer", "", "a text, with --jwks-file", "issuer that tokens must have", false,
       Text(&O::auth, &AuthSettings::jwt_issuer)},
      {"jwt-audience", "", "a text, with --jwks-file", "audience that tokens must be for", false,
       Text(&O::auth, &AuthSettings::jwt_audience)},
      {"jwt-tenant-claim", "tenant", "a name", "claim that names the tenant", false,
       Text(&O::auth, &AuthSettings::jwt_tenant_claim)},
      {"jwt-clock-skew-seconds", "30", "a number from 0 to 300",
       "by how much the issuer's clock may differ", false,
       SecondsFrom(&O::auth, &AuthSettings::jwt_clock_skew, 0, 300)},
      {"tenants-file", "", "a JSON file", "what tenants may use, and whose certificates are whose",
       false, Text(&O::auth, &AuthSettings::tenants_file)},
      {"open-health", "on", "on or off", "whether health checks need no proof of who asks", false,
       OnOrOff(&O::auth, &AuthSettings::open_health)},
  };
}

absl::Status CheckSecurity(ServerOptions* options) {
  WireSettings& wire = options->wire;
  AuthSettings& auth = options->auth;
  const TlsSettings& tls = options->tls;
  RETURN_IF_ERROR(CheckFiles(tls, auth));
  auth.client_certificates = !tls.client_ca_file.empty();
  const bool production = wire.profile == "production";
  if (production && !tls.enabled()) {
    return Wrong("profile", "production is not allowed without --tls-cert and --tls-key");
  }
  if (production && !auth.required()) {
    return Wrong("profile",
                 "production is not allowed without --token-file, --jwks-file or --tls-client-ca");
  }
  if (!tls.enabled() && !IsLoopback(wire.listen) && !wire.insecure) {
    return Wrong("listen", absl::StrCat(wire.listen,
                                        " can be reached from other machines, which is not allowed "
                                        "without --tls-cert, or --insecure on"));
  }
  // In production callers must prove who they are, so "auto" is off there.
  wire.reflection =
      wire.reflection_choice == "on" || (wire.reflection_choice == "auto" && !auth.required());
  // gRPC hands calls of its own services to a guard under TLS only.
  if (auth.required() && !tls.enabled() && wire.reflection) {
    return Wrong("reflection",
                 "on is not allowed without --tls-cert where callers must prove who "
                 "they are");
  }
  if (auth.required() && !tls.enabled() && !auth.open_health) {
    return Wrong("open-health", "off is not allowed without --tls-cert");
  }
  return absl::OkStatus();
}

}  // namespace reprise::service
