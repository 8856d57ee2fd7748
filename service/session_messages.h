// Between the store's records and the contract's messages.
#ifndef REPRISE_SERVICE_SESSION_MESSAGES_H_
#define REPRISE_SERVICE_SESSION_MESSAGES_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "reprise/v1/session.pb.h"
#include "service/environment.h"
#include "service/errors.h"
#include "state_store/session_store.h"

namespace reprise::service {

// Reads the head's manifest too, for its size; blocks.
absl::StatusOr<v1::Session> DescribeSession(state_store::SessionStore* store,
                                            const state_store::Session& session);
v1::Snapshot DescribeSnapshot(const std::string& session_id,
                              const state_store::SnapshotInfo& snapshot);

// Of CreateSession, and of what imports and forks share with it. One status names every violation.
absl::StatusOr<state_store::NewSessionOptions> ReadNewSession(
    const v1::CreateSessionRequest& request, const Environment& environment,
    const std::string& path_prefix = "");

void CheckLabels(const google::protobuf::Map<std::string, std::string>& labels,
                 const std::string& field, FieldViolations* violations);
// A positive duration; something legal, after a violation, otherwise.
absl::Duration ReadTtl(const google::protobuf::Duration& ttl, const std::string& field,
                       FieldViolations* violations);
absl::StatusOr<state_store::PageRequest> ReadPage(int32_t page_size, const std::string& page_token);

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_SESSION_MESSAGES_H_
