// Page tokens that cannot be altered or carried to another list.
#ifndef REPRISE_STATE_STORE_INTERNAL_PAGE_TOKEN_H_
#define REPRISE_STATE_STORE_INTERNAL_PAGE_TOKEN_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace reprise::state_store {

// `scope` says which list of which tenant the token belongs to, `cursor` the last item returned.
std::string MakePageToken(std::string_view key, std::string_view scope, std::string_view cursor);
// The cursor; INVALID_ARGUMENT (kInvalidPageToken).
absl::StatusOr<std::string> ReadPageToken(std::string_view key, std::string_view scope,
                                          std::string_view token);

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_INTERNAL_PAGE_TOKEN_H_
