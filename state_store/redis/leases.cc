// StoreImpl: leases.
#include <algorithm>

#include "absl/strings/numbers.h"
#include "base/fault_point.h"
#include "base/status_macros.h"
#include "state_store/internal/cat.h"
#include "state_store/internal/validate.h"
#include "state_store/redis/error.h"
#include "state_store/redis/store_impl.h"
#include "state_store/redis/store_scripts.h"

namespace reprise::state_store::redis {
namespace {

constexpr size_t kMaxOwnerBytes = 256;
constexpr absl::Duration kMaxLease = absl::Hours(24);

absl::StatusOr<Lease> ReadLease(const Answer& answer, std::string_view session_id,
                                std::string owner) {
  RETURN_IF_ERROR(answer.reply.status());
  ASSIGN_OR_RETURN(const auto* reply, answer.reply->Array("lease", 1));
  const std::string& word = reply->front().text;
  if (word == "absent") {
    return MakeStoreError(StoreError::kSessionNotFound, Cat("no session \"", session_id, "\""));
  }
  RETURN_IF_ERROR(LeaseRefusal(*reply, session_id));
  Lease lease;
  lease.owner = std::move(owner);
  if (word == "released") return lease;
  int64_t until = 0;
  if (reply->size() < 2 || !absl::SimpleAtoi((*reply)[1].text, &until)) {
    return MakeRedisError(RedisError::kProtocol, Outcome::kUnknown, "lease: strange answer");
  }
  lease.token = word;
  lease.until = absl::FromUnixMicros(until);
  return lease;
}

absl::Status CheckLength(absl::Duration length) {
  if (length >= absl::Milliseconds(1) && length <= kMaxLease) return absl::OkStatus();
  return MakeStoreError(StoreError::kInvalidArgument, "a lease takes from 1 ms to 24 h");
}

}  // namespace

absl::Status LeaseRefusal(const std::vector<Reply>& reply, std::string_view session_id) {
  const std::string& word = reply.front().text;
  if (word == "fenced") {
    return MakeStoreError(StoreError::kLeaseLost,
                          Cat("the lease on session ", session_id, " is lost"));
  }
  if (word != "leased") return absl::OkStatus();
  int64_t micros = 0;
  if (reply.size() < 3 || !absl::SimpleAtoi(reply[2].text, &micros)) micros = 0;
  micros = std::clamp(micros, int64_t{0}, absl::ToInt64Microseconds(kMaxLease));
  return WithRetryAfter(
      MakeStoreError(
          StoreError::kSessionLeased,
          Cat("session ", session_id, " is leased to \"", reply.size() > 1 ? reply[1].text : "",
              "\" for another ", absl::FormatDuration(absl::Milliseconds((micros + 999) / 1000)))),
      absl::Microseconds(micros));
}

absl::StatusOr<Lease> StoreImpl::RunLease(std::string_view tenant, std::string_view session_id,
                                          std::vector<std::string> arguments, std::string owner,
                                          Deadline deadline) {
  REPRISE_FAULT_POINT("redis.lease.asked");
  const Answer answer =
      client_->Run(Eval(kLease, keys_.Session(tenant, session_id), std::move(arguments)), deadline);
  REPRISE_FAULT_POINT("redis.lease.answered");
  return ReadLease(answer, session_id, std::move(owner));
}

// An answer that comes later is about a lease that is as good as over.
Deadline StoreImpl::LeaseDeadline(absl::Duration length) const {
  return DeadlineAfter(
      std::min(options_.operation_timeout, std::max(length / 2, absl::Seconds(1))));
}

absl::StatusOr<Lease> StoreImpl::AcquireLease(std::string_view tenant, std::string_view session_id,
                                              std::string_view owner, absl::Duration length) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  RETURN_IF_ERROR(CheckLength(length));
  if (owner.empty() || owner.size() > kMaxOwnerBytes) {
    return MakeStoreError(StoreError::kInvalidArgument, "owner is empty or too long");
  }
  return RunLease(tenant, session_id,
                  {"acquire", std::string(owner), Cat(absl::ToInt64Microseconds(length))},
                  std::string(owner), LeaseDeadline(length));
}

absl::StatusOr<Lease> StoreImpl::RenewLease(std::string_view tenant, std::string_view session_id,
                                            const Lease& lease, absl::Duration length) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  RETURN_IF_ERROR(CheckLength(length));
  return RunLease(tenant, session_id,
                  {"renew", lease.token, Cat(absl::ToInt64Microseconds(length))}, lease.owner,
                  LeaseDeadline(length));
}

absl::Status StoreImpl::ReleaseLease(std::string_view tenant, std::string_view session_id,
                                     const Lease& lease) {
  RETURN_IF_ERROR(ValidateTenant(tenant));
  return RunLease(tenant, session_id, {"release", lease.token}, lease.owner, NewDeadline())
      .status();
}

}  // namespace reprise::state_store::redis
