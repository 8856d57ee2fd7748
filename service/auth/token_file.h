// Static bearer tokens: "reprise_ID_SECRET", of which a file keeps ID, tenant, right and a salted
// hash of the secret.
//
//   # id   tenant  right  hash
//   ci-1   acme    user   hmac-sha256:SALT:HASH
//
// The secret is made by MakeToken, 256 random bits; nothing can be guessed from its hash, however
// fast that is to compute, so a slow one would only be a way to keep the server busy.
#ifndef REPRISE_SERVICE_AUTH_TOKEN_FILE_H_
#define REPRISE_SERVICE_AUTH_TOKEN_FILE_H_

#include <map>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "service/auth/identity.h"

namespace reprise::service {

// Immutable, so thread-safe.
class TokenFile {
 public:
  // INVALID_ARGUMENT names the line, and never quotes what it says.
  static absl::StatusOr<TokenFile> Parse(std::string_view text);

  // UNAUTHENTICATED if no line has this token. How long it takes says nothing about how much of the
  // secret is right, nor whether there is such an id.
  absl::StatusOr<Identity> Find(std::string_view token) const;

  size_t size() const { return lines_.size(); }

 private:
  struct Line {
    Identity identity;
    std::string salt, hash;
  };

  static absl::Status ParseLine(std::string_view text, std::map<std::string, Line>* lines);

  std::map<std::string, Line> lines_;  // by id
};

// Whether `token` has the form of one of these.
bool LooksLikeStaticToken(std::string_view token);

struct NewToken {
  std::string token;  // for the client; shown once
  std::string line;   // for the file
};
// INVALID_ARGUMENT for an id or tenant that the file could not have.
absl::StatusOr<NewToken> MakeToken(std::string_view id, std::string_view tenant, Right right);

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_AUTH_TOKEN_FILE_H_
