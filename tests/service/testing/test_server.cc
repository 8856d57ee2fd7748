#include "tests/service/testing/test_server.h"

#include <gtest/gtest.h>

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "google/rpc/status.pb.h"
#include "service/served_model.h"
#include "state_store/disk_store.h"
#include "state_store/memory_store.h"

namespace reprise::service::testing {
namespace {

google::rpc::Status Details(const grpc::Status& status) {
  google::rpc::Status details;
  details.ParseFromString(status.error_details());
  return details;
}

template <typename Message>
bool FindDetail(const grpc::Status& status, Message* message) {
  const google::rpc::Status details = Details(status);
  for (const auto& any : details.details()) {
    if (any.UnpackTo(message)) return true;
  }
  return false;
}

// A puppet that calls itself otherwise.
class RenamedModel final : public models::HybridModel {
 public:
  RenamedModel(std::unique_ptr<scheduler::PuppetModel> model, std::string fingerprint)
      : model_(std::move(model)), info_(model_->info()) {
    if (!fingerprint.empty()) info_.weights_fingerprint = std::move(fingerprint);
  }
  const models::ModelInfo& info() const override { return info_; }
  const models::StateLayout& state_layout() const override { return model_->state_layout(); }
  int max_rows() const override { return model_->max_rows(); }
  absl::Status Forward(const models::RaggedBatch& batch, models::StateSlots& slots,
                       absl::Span<float> logits) override {
    return model_->Forward(batch, slots, logits);
  }

 private:
  std::unique_ptr<scheduler::PuppetModel> model_;
  models::ModelInfo info_;
};

scheduler::PuppetModel::Options PuppetOptions(int state_words) {
  scheduler::PuppetModel::Options options;
  options.vocab_size = ByteTokenizer::kVocabulary;
  options.state_words = state_words;
  return options;
}

}  // namespace

void StepGate::Hold() {
  absl::MutexLock lock(&mutex_);
  held_ = true;
  allowed_ = 0;
}

void StepGate::Allow(int steps) {
  absl::MutexLock lock(&mutex_);
  allowed_ += steps;
}

void StepGate::Open() {
  absl::MutexLock lock(&mutex_);
  held_ = false;
}

void StepGate::Pass() {
  absl::MutexLock lock(&mutex_);
  ++waiting_;
  auto free = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !held_ || allowed_ > 0; };
  mutex_.Await(absl::Condition(&free));
  --waiting_;
  if (held_) --allowed_;
  ++steps_;
}

bool StepGate::AwaitHeld() {
  absl::MutexLock lock(&mutex_);
  auto held = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return waiting_ > 0 && held_ && allowed_ == 0;
  };
  return mutex_.AwaitWithTimeout(absl::Condition(&held), kPatience);
}

int64_t StepGate::steps() const {
  absl::MutexLock lock(&mutex_);
  return steps_;
}

int64_t StepGate::AwaitStill() const {
  const absl::Time limit = absl::Now() + kPatience;
  int64_t before = -1;
  while (absl::Now() < limit) {
    const int64_t now = steps();
    if (now == before && now > 0) break;
    before = now;
    absl::SleepFor(absl::Milliseconds(200));
  }
  return before;
}

void Answer::Add(const v1::GenerateResponse& response) {
  EXPECT_FALSE(has_finished) << "an event after the last";
  if (response.has_tokens()) {
    const v1::Tokens& tokens = response.tokens();
    ids.insert(ids.end(), tokens.ids().begin(), tokens.ids().end());
    logprobs.insert(logprobs.end(), tokens.logprobs().begin(), tokens.logprobs().end());
    text += tokens.text();
  } else {
    has_finished = response.has_finished();
    finished = response.finished();
    text += response.finished().text();
  }
}

Answer ReadAll(grpc::ClientReader<v1::GenerateResponse>* reader) {
  Answer answer;
  v1::GenerateResponse response;
  while (reader->Read(&response)) answer.Add(response);
  answer.status = reader->Finish();
  EXPECT_EQ(answer.status.ok(), answer.has_finished);
  return answer;
}

google::rpc::ErrorInfo ErrorInfoIn(const grpc::Status& status) {
  google::rpc::ErrorInfo info;
  FindDetail(status, &info);
  return info;
}

std::string ReasonIn(const grpc::Status& status) { return ErrorInfoIn(status).reason(); }

std::vector<std::string> FieldsIn(const grpc::Status& status) {
  google::rpc::BadRequest bad_request;
  FindDetail(status, &bad_request);
  std::vector<std::string> fields;
  for (const auto& violation : bad_request.field_violations()) fields.push_back(violation.field());
  return fields;
}

bool HasRetryInfo(const grpc::Status& status) {
  google::rpc::RetryInfo retry;
  return FindDetail(status, &retry);
}

TestServer::Options TestServer::SmallOptions() {
  Options options;
  options.server.wire.listen = "127.0.0.1:0";
  options.server.log.level = "error";
  options.server.compute.slots = 4;
  options.server.compute.step_tokens = 64;
  options.server.compute.prefill_chunk_tokens = 16;
  options.server.limits.max_tokens = 1 << 20;
  return options;
}

TestServer::TestServer(const Options& options) : oracle_(PuppetOptions(options.state_words)) {
  ServerParts parts;
  parts.metrics = std::make_shared<Metrics>(options.server.telemetry.max_tenants);
  metrics_ = parts.metrics;
  parts.compute = kernels::ThreadPool::Create(1).value();
  const kernels::Context context{kernels::Device::kCpu, parts.compute.get()};
  state_store::StoreOptions store;
  store.max_stored_bytes = options.server.store.max_bytes;
  if (options.disk.empty()) {
    parts.store = state_store::CreateMemoryStore(store).value();
  } else {
    state_store::DiskStoreOptions disk;
    disk.directory = options.disk;
    disk.store = store;
    parts.store = state_store::OpenDiskStore(disk).value().store;
  }
  if (options.wrap_store) parts.store = options.wrap_store(std::move(parts.store));
  parts.store_answers = options.store_answers;
  store_ = parts.store.get();
  parts.store = metrics_->Measured(std::move(parts.store), "store");
  for (size_t i = 0; i < options.models.size(); ++i) {
    const std::string& name = options.models[i];
    auto puppet = std::make_unique<scheduler::PuppetModel>(PuppetOptions(options.state_words));
    puppet->on_forward = [this, on_step = options.on_step](const models::RaggedBatch& batch) {
      gate_.Pass();
      if (on_step) on_step(batch);
      return absl::OkStatus();
    };
    puppet->nan_token = options.nan_token;
    auto model = std::make_unique<RenamedModel>(std::move(puppet), options.weights_fingerprint);
    parts.models.push_back(
        ServeModel(name, std::move(model),
                   options.tokenizer ? std::make_unique<ByteTokenizer>() : nullptr, context,
                   nullptr, &clock_, options.server.compute, metrics_->AddModel(name), nullptr,
                   i < options.health.size() ? options.health[i] : nullptr)
            .value());
    served_.push_back(parts.models.back().get());
  }
  server_ = Server::Start(options.server, std::move(parts), &clock_).value();
  grpc::ChannelArguments arguments;
  // A channel of its own, so that tests do not share connections.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // Keeps the windows small, so that a client that does not read is felt soon.
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  channel_ = grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(server_->port()),
                                       grpc::InsecureChannelCredentials(), arguments);
  generation_ = v1::GenerationService::NewStub(channel_);
  sessions_ = v1::SessionService::NewStub(channel_);
  models_ = v1::ModelService::NewStub(channel_);
}

TestServer::~TestServer() { gate_.Open(); }

std::vector<int32_t> TestServer::Expected(const std::vector<int32_t>& tokens, int count) const {
  return oracle_.Continue(tokens, count);
}

Answer TestServer::Generate(const v1::GenerateRequest& request) {
  grpc::ClientContext context;
  return ReadAll(generation_->Generate(&context, request).get());
}

Answer TestServer::Turn(const std::string& session, const std::vector<int32_t>& prompt, int count) {
  v1::GenerateRequest request = TokenRequest(prompt, count);
  request.set_session(session);
  Answer answer = Generate(request);
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  return answer;
}

v1::Session TestServer::NewSession(const std::string& id) {
  grpc::ClientContext context;
  v1::CreateSessionRequest request;
  request.set_session_id(id);
  v1::Session session;
  const grpc::Status status = sessions_->CreateSession(&context, request, &session);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return session;
}

v1::Session TestServer::GetSession(const std::string& name) {
  grpc::ClientContext context;
  v1::GetSessionRequest request;
  request.set_name(name);
  v1::Session session;
  const grpc::Status status = sessions_->GetSession(&context, request, &session);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return session;
}

bool TestServer::Idle() const {
  for (const ServedModel* model : served_) {
    const scheduler::SchedulerStats stats = model->scheduler->stats();
    if (stats.running > 0 || stats.waiting > 0 ||
        stats.free_slots != model->scheduler->options().num_slots) {
      return false;
    }
  }
  return true;
}

bool TestServer::AwaitIdle() {
  return Await([this] { return Idle(); });
}

bool TestServer::AwaitCalls(int calls) {
  const std::string line = absl::StrCat("\nreprise_rpc_in_flight ", calls, "\n");
  return Await([&] { return absl::StrContains(MetricsText(), line); });
}

v1::GenerateRequest TokenRequest(const std::vector<int32_t>& prompt, int max_tokens) {
  v1::GenerateRequest request;
  for (int32_t id : prompt) request.mutable_tokens()->add_ids(id);
  request.mutable_stop()->set_max_tokens(max_tokens);
  request.mutable_stop()->set_ignore_eos(true);
  return request;
}

}  // namespace reprise::service::testing
