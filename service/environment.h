// What the services share.
#ifndef REPRISE_SERVICE_ENVIRONMENT_H_
#define REPRISE_SERVICE_ENVIRONMENT_H_

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "base/clock.h"
#include "service/busy_sessions.h"
#include "service/call_gate.h"
#include "service/logging.h"
#include "service/served_model.h"
#include "service/server_options.h"
#include "service/worker_pool.h"
#include "state_store/session_store.h"

namespace reprise::service {

class Authenticator;
class Metrics;
class QuotaBook;

// Owned by the server, borrowed by services and calls, which it outlives.
struct Environment {
  RequestLimits limits;
  const Clock* clock = nullptr;
  std::shared_ptr<spdlog::logger> log;
  Metrics* metrics = nullptr;
  std::shared_ptr<spdlog::logger> spans;  // lines of JSON; null: none are wanted
  bool all_spans = false;                 // else those of sampled traces
  ModelRegistry* models = nullptr;
  state_store::SessionStore* store = nullptr;
  std::function<absl::Status()> collect_garbage;  // of the store; empty where it needs none
  CallGate gate;
  BusySessions busy;
  const Authenticator* auth = nullptr;
  QuotaBook* quotas = nullptr;
  // New calls that wait for a thread; more are refused.
  WorkerPool* io = nullptr;
};

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_ENVIRONMENT_H_
