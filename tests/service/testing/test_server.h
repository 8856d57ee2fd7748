// A real server on a free port, with a model whose text shows every error of its state.
#ifndef REPRISE_TESTS_SERVICE_TESTING_TEST_SERVER_H_
#define REPRISE_TESTS_SERVICE_TESTING_TEST_SERVER_H_

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "google/rpc/error_details.pb.h"
#include "models/ragged_batch.h"
#include "reprise/v1/generation.grpc.pb.h"
#include "reprise/v1/model.grpc.pb.h"
#include "reprise/v1/session.grpc.pb.h"
#include "scheduler/testing/puppet_model.h"
#include "service/metrics/metrics.h"
#include "service/served_model.h"
#include "service/server.h"
#include "service/server_options.h"
#include "tests/service/testing/byte_tokenizer.h"

namespace reprise::service::testing {

// Waits are ended by conditions; this only turns a hang into a failure.
inline constexpr absl::Duration kPatience = absl::Seconds(60);

// Whether it comes true before patience ends.
template <typename Condition>
bool Await(Condition condition) {
  const absl::Time give_up = absl::Now() + kPatience;
  while (!condition()) {
    if (absl::Now() > give_up) return false;
    absl::SleepFor(absl::Milliseconds(1));
  }
  return true;
}

// Holds the model's steps until it is told to let them go. Thread-safe.
class StepGate {
 public:
  void Hold();
  // Lets `steps` more steps through.
  void Allow(int steps);
  void Open();
  // Of the model; blocks while held.
  void Pass();
  // Until a step waits at the gate; false after kPatience.
  bool AwaitHeld();
  // Until no step has come through for a moment; how many have then.
  int64_t AwaitStill() const;
  // That came through.
  int64_t steps() const;

 private:
  mutable absl::Mutex mutex_;
  bool held_ ABSL_GUARDED_BY(mutex_) = false;
  int allowed_ ABSL_GUARDED_BY(mutex_) = 0;
  int waiting_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t steps_ ABSL_GUARDED_BY(mutex_) = 0;
};

struct Answer {
  // The next event of the stream.
  void Add(const v1::GenerateResponse& response);

  grpc::Status status;
  std::vector<int32_t> ids;
  std::string text;  // of the events and of the end
  std::vector<v1::TokenLogprob> logprobs;
  v1::Finished finished;
  bool has_finished = false;
};

// Reads a stream to its end.
Answer ReadAll(grpc::ClientReader<v1::GenerateResponse>* reader);

// What the status' details say; empty if it has none of that kind.
std::string ReasonIn(const grpc::Status& status);
google::rpc::ErrorInfo ErrorInfoIn(const grpc::Status& status);
std::vector<std::string> FieldsIn(const grpc::Status& status);
bool HasRetryInfo(const grpc::Status& status);

class TestServer {
 public:
  struct Options {
    ServerOptions server;
    std::string weights_fingerprint;  // empty = the puppet's own
    std::vector<std::string> models = {"puppet"};
    bool tokenizer = true;
    int32_t nan_token = -1;  // feeding it spoils the logits
    int state_words = 16;
    std::string disk;  // empty = memory
    // Puts something in front of the store.
    std::function<std::unique_ptr<state_store::SessionStore>(
        std::unique_ptr<state_store::SessionStore>)>
        wrap_store;
    std::function<bool()> store_answers;  // of ServerParts
    // Of each model's device; without one each has its own.
    std::vector<std::shared_ptr<kernels::DeviceHealth>> health;
    // Hears of each step's rows before they run, on the scheduler's thread.
    std::function<void(const models::RaggedBatch&)> on_step;
  };
  static Options SmallOptions();

  TestServer() : TestServer(SmallOptions()) {}
  explicit TestServer(const Options& options);
  ~TestServer();

  Server& server() { return *server_; }
  StepGate& gate() { return gate_; }
  state_store::SessionStore& store() { return *store_; }
  // As /metrics has them.
  std::string MetricsText() const { return metrics_->Text(); }
  v1::GenerationService::Stub& generation() { return *generation_; }
  v1::SessionService::Stub& sessions() { return *sessions_; }
  v1::ModelService::Stub& models() { return *models_; }
  std::shared_ptr<grpc::Channel> channel() { return channel_; }
  // The answer that the model gives to `tokens`.
  std::vector<int32_t> Expected(const std::vector<int32_t>& tokens, int count) const;

  Answer Generate(const v1::GenerateRequest& request);
  // A turn of `count` tokens; fails the test if the call does.
  Answer Turn(const std::string& session, const std::vector<int32_t>& prompt, int count);
  v1::Session NewSession(const std::string& id);
  v1::Session GetSession(const std::string& name);
  ServedModel& served() { return *served_.front(); }
  // Requests that have not started, as of the last step.
  int Waiting() const { return served_.front()->scheduler->stats().waiting; }
  // No sequence runs or waits, and no slot is held.
  bool Idle() const;
  // Until that is so; false after kPatience.
  bool AwaitIdle();
  // Until so many calls are in progress; false after kPatience. Clients may have left some whose
  // turns are still being stored.
  bool AwaitCalls(int calls);

 private:
  RealClock clock_;
  std::shared_ptr<Metrics> metrics_;  // goes after the server
  StepGate gate_;
  scheduler::PuppetModel oracle_;
  std::vector<ServedModel*> served_;
  state_store::SessionStore* store_ = nullptr;
  std::unique_ptr<Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::GenerationService::Stub> generation_;
  std::unique_ptr<v1::SessionService::Stub> sessions_;
  std::unique_ptr<v1::ModelService::Stub> models_;
};

// A request with token ids and a number of tokens, that ends for no other reason.
v1::GenerateRequest TokenRequest(const std::vector<int32_t>& prompt, int max_tokens);

}  // namespace reprise::service::testing

#endif  // REPRISE_TESTS_SERVICE_TESTING_TEST_SERVER_H_
