// PEM files of certificates and keys, checked before they are used.
#ifndef REPRISE_SERVICE_TLS_PEM_H_
#define REPRISE_SERVICE_TLS_PEM_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace reprise::service {

// The whole of a regular file of at most `max_bytes`. INVALID_ARGUMENT otherwise.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t max_bytes);

// A certificate, those that lead from it to an authority behind it, and the key of the first.
// INVALID_ARGUMENT if one does not parse, the key is encrypted or of another certificate, or the
// first certificate is not valid at `now`.
absl::Status CheckCertificateAndKey(std::string_view certificate_pem, std::string_view key_pem,
                                    absl::Time now);

// One or more certificates of authorities.
absl::Status CheckAuthorities(std::string_view pem);

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_TLS_PEM_H_
