#include <algorithm>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/numbers.h"
#include "absl/synchronization/mutex.h"
#include "base/status_macros.h"
#include "state_store/internal/cat.h"
#include "state_store/redis/error.h"
#include "state_store/redis/router.h"

namespace reprise::state_store::redis {
namespace {

class SentinelRouter final : public Router {
 public:
  SentinelRouter(const Address& address, const ConnectionOptions& sentinel,
                 const ConnectionOptions& server)
      : service_(address.service),
        sentinel_(sentinel),
        server_(server),
        sentinels_(address.endpoints) {}

  absl::StatusOr<Endpoint> Locate(std::string_view, Deadline deadline) override {
    absl::MutexLock lock(&mu_);
    if (master_.has_value()) return *master_;
    // Under the lock: whoever else needs the master has to wait for the same answer.
    ASSIGN_OR_RETURN(const Endpoint master, FindMaster(deadline));
    master_ = master;
    return master;
  }

  absl::StatusOr<std::vector<Endpoint>> Masters(Deadline deadline) override {
    ASSIGN_OR_RETURN(const Endpoint master, Locate("", deadline));
    return std::vector<Endpoint>{master};
  }

  void OnFailure(std::string_view, const Endpoint& at, const absl::Status&) override {
    absl::MutexLock lock(&mu_);
    if (master_ == at) master_.reset();
  }

 private:
  absl::StatusOr<Endpoint> AskSentinel(const Endpoint& sentinel, Deadline deadline) const {
    ASSIGN_OR_RETURN(const auto connection, Connection::Connect(sentinel, sentinel_, deadline));
    const Deadline soon = std::min(deadline, DeadlineAfter(sentinel_.connect_timeout));
    ASSIGN_OR_RETURN(const Reply reply,
                     connection->Call({"SENTINEL", "GET-MASTER-ADDR-BY-NAME", service_}, soon));
    if (reply.is_nil()) {
      return MakeRedisError(
          RedisError::kUnready, Outcome::kNotDone,
          Cat("sentinel ", sentinel.ToString(), " knows no service \"", service_, "\""));
    }
    ASSIGN_OR_RETURN(const auto* pair, reply.Array("SENTINEL", 2));
    Endpoint master;
    uint32_t port = 0;
    if (!absl::SimpleAtoi((*pair)[1].text, &port) || port == 0 || port > 65535) {
      return MakeRedisError(RedisError::kProtocol, Outcome::kNotDone, "sentinel gave a bad port");
    }
    master.host = (*pair)[0].text;
    master.port = static_cast<uint16_t>(port);
    return master;
  }

  absl::Status CheckRole(const Endpoint& master, Deadline deadline) const {
    ASSIGN_OR_RETURN(const auto connection, Connection::Connect(master, server_, deadline));
    const Deadline soon = std::min(deadline, DeadlineAfter(server_.connect_timeout));
    const absl::StatusOr<Reply> reply = connection->Call({"ROLE"}, soon);
    // Where an ACL forbids ROLE, a replica still refuses writes with READONLY.
    if (!reply.ok() && GetRedisError(reply.status()) == RedisError::kDenied) {
      return absl::OkStatus();
    }
    RETURN_IF_ERROR(reply.status());
    ASSIGN_OR_RETURN(const auto* role, reply->Array("ROLE", 1));
    if (role->front().text == "master") return absl::OkStatus();
    return MakeRedisError(RedisError::kUnready, Outcome::kNotDone,
                          Cat(master.ToString(), " is no master yet"));
  }

  absl::StatusOr<Endpoint> FindMaster(Deadline deadline) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    absl::Status failure = absl::OkStatus();
    for (size_t i = 0; i < sentinels_.size(); ++i) {
      absl::StatusOr<Endpoint> master = AskSentinel(sentinels_[i], deadline);
      if (master.ok()) failure = CheckRole(*master, deadline);
      if (master.ok() && failure.ok()) {
        // The one that knew is asked first the next time.
        std::rotate(sentinels_.begin(), sentinels_.begin() + static_cast<ptrdiff_t>(i),
                    sentinels_.begin() + static_cast<ptrdiff_t>(i) + 1);
        return master;
      }
      if (!master.ok()) failure = master.status();
    }
    return Prefixed(failure, ToAbsl(Cat("looking for the master of \"", service_, "\"")));
  }

  const std::string service_;
  const ConnectionOptions sentinel_;
  const ConnectionOptions server_;
  absl::Mutex mu_;
  std::vector<Endpoint> sentinels_ ABSL_GUARDED_BY(mu_);
  std::optional<Endpoint> master_ ABSL_GUARDED_BY(mu_);
};

}  // namespace

std::unique_ptr<Router> MakeSentinelRouter(const Address& address,
                                           const ConnectionOptions& sentinel,
                                           const ConnectionOptions& server) {
  return std::make_unique<SentinelRouter>(address, sentinel, server);
}

}  // namespace reprise::state_store::redis
