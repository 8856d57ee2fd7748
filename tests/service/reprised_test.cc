// The real binary, with a small random checkpoint and a store on disk: start, kill, resume, stop.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "reprise/v1/generation.grpc.pb.h"
#include "reprise/v1/model.grpc.pb.h"
#include "reprise/v1/session.grpc.pb.h"
#include "tests/models/testing/random_checkpoint.h"

namespace reprise::service {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(60);

// A running server process; killed when it goes.
class Process {
 public:
  explicit Process(const std::vector<std::string>& arguments) {
    pid_ = fork();
    if (pid_ != 0) return;
    std::vector<char*> argv = {const_cast<char*>(REPRISED_BINARY)};
    for (const std::string& argument : arguments)
      argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    execv(REPRISED_BINARY, argv.data());
    _exit(127);
  }
  ~Process() {
    if (pid_ > 0) Stop(SIGKILL);
  }
  void Signal(int signal) { kill(pid_, signal); }
  // The exit code, or minus the signal that ended it.
  int Stop(int signal) {
    kill(pid_, signal);
    return Wait();
  }
  int Wait() {
    int status = 0;
    waitpid(std::exchange(pid_, 0), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  bool Running() { return pid_ > 0 && kill(pid_, 0) == 0 && waitpid(pid_, nullptr, WNOHANG) == 0; }

 private:
  pid_t pid_ = 0;
};

class ReprisedTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto config = models::testing::SmallConfig();
    models::testing::WriteCheckpoint(checkpoint_, config,
                                     models::testing::RandomTensors(config, 1));
    port_file_ = work_.path() + "/port";
  }

  std::unique_ptr<Process> Start(const std::vector<std::string>& more = {}) {
    std::filesystem::remove(port_file_);
    std::vector<std::string> arguments = {"--model",         "tiny=" + checkpoint_.path(),
                                          "--listen",        "127.0.0.1:0",
                                          "--port-file",     port_file_,
                                          "--store",         "disk:" + work_.path() + "/store",
                                          "--threads",       "1",
                                          "--slots",         "4",
                                          "--log-level",     "error",
                                          "--drain-seconds", "5"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    auto process = std::make_unique<Process>(arguments);
    const absl::Time limit = absl::Now() + kPatience;
    int port = 0;
    while (port == 0 && absl::Now() < limit && process->Running()) {
      std::ifstream(port_file_) >> port;
      absl::SleepFor(absl::Milliseconds(5));
    }
    EXPECT_NE(port, 0) << "the server did not start";
    auto channel = grpc::CreateChannel("127.0.0.1:" + std::to_string(port),
                                       grpc::InsecureChannelCredentials());
    generation_ = v1::GenerationService::NewStub(channel);
    sessions_ = v1::SessionService::NewStub(channel);
    models_ = v1::ModelService::NewStub(channel);
    return process;
  }

  void Create(const std::string& id) {
    grpc::ClientContext context;
    v1::CreateSessionRequest request;
    request.set_session_id(id);
    v1::Session session;
    ASSERT_TRUE(sessions_->CreateSession(&context, request, &session).ok());
  }

  std::vector<int32_t> Turn(const std::string& id, const std::vector<int32_t>& prompt, int count) {
    grpc::ClientContext context;
    v1::GenerateRequest request;
    request.set_session("sessions/" + id);
    for (int32_t token : prompt) request.mutable_tokens()->add_ids(token);
    request.mutable_stop()->set_max_tokens(count);
    request.mutable_sampling()->set_temperature(1);
    if (!prompt.empty()) request.mutable_sampling()->set_seed(5);
    request.set_durability(v1::DURABILITY_SYNC);
    auto reader = generation_->Generate(&context, request);
    std::vector<int32_t> ids;
    v1::GenerateResponse response;
    while (reader->Read(&response)) {
      ids.insert(ids.end(), response.tokens().ids().begin(), response.tokens().ids().end());
    }
    const grpc::Status status = reader->Finish();
    EXPECT_TRUE(status.ok()) << status.error_message();
    return ids;
  }

  models::testing::TempDir checkpoint_, work_;
  std::string port_file_;
  std::unique_ptr<v1::GenerationService::Stub> generation_;
  std::unique_ptr<v1::SessionService::Stub> sessions_;
  std::unique_ptr<v1::ModelService::Stub> models_;
};

TEST_F(ReprisedTest, AKilledServersSessionsGoOnAsIfNothingHadHappened) {
  const std::vector<int32_t> prompt = {3, 1, 4, 1, 5, 9, 2, 6};
  auto process = Start();
  Create("whole");
  const std::vector<int32_t> whole = Turn("whole", prompt, 120);
  ASSERT_EQ(whole.size(), 120u);

  Create("parts");
  std::vector<int32_t> parts = Turn("parts", prompt, 50);
  {
    // A turn that is under way when the server dies leaves no trace.
    grpc::ClientContext context;
    v1::GenerateRequest request;
    request.set_session("sessions/parts");
    request.mutable_stop()->set_max_tokens(60000);
    auto reader = generation_->Generate(&context, request);
    v1::GenerateResponse response;
    ASSERT_TRUE(reader->Read(&response));
    EXPECT_EQ(process->Stop(SIGKILL), -SIGKILL);
    while (reader->Read(&response)) {
    }
    EXPECT_FALSE(reader->Finish().ok());
  }
  process = Start();
  const std::vector<int32_t> rest = Turn("parts", {}, 70);
  parts.insert(parts.end(), rest.begin(), rest.end());
  EXPECT_EQ(parts, whole);
  EXPECT_EQ(process->Stop(SIGTERM), 0);
}

TEST_F(ReprisedTest, SigtermCommitsWhatRuns) {
  auto process = Start();
  Create("chat");
  const std::vector<int32_t> prompt = {3, 1, 4};
  grpc::ClientContext context;
  v1::GenerateRequest request;
  request.set_session("sessions/chat");
  for (int32_t token : prompt) request.mutable_tokens()->add_ids(token);
  request.mutable_stop()->set_max_tokens(30);
  auto reader = generation_->Generate(&context, request);
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(process->Stop(SIGTERM), 0);
  int64_t answered = response.tokens().ids_size();
  while (reader->Read(&response)) answered += response.tokens().ids_size();
  ASSERT_TRUE(reader->Finish().ok());
  process = Start();
  grpc::ClientContext get_context;
  v1::GetSessionRequest get;
  get.set_name("sessions/chat");
  v1::Session session;
  ASSERT_TRUE(sessions_->GetSession(&get_context, get, &session).ok());
  EXPECT_EQ(session.version(), 2u);
  EXPECT_EQ(session.token_count(), 3 + answered);
  EXPECT_EQ(process->Stop(SIGINT), 0);
}

TEST_F(ReprisedTest, ASecondServerOnTheSameStoreDoesNotStart) {
  auto process = Start();
  Process second({"--model", "tiny=" + checkpoint_.path(), "--listen", "127.0.0.1:0", "--store",
                  "disk:" + work_.path() + "/store"});
  EXPECT_EQ(second.Wait(), 1);
  EXPECT_TRUE(process->Running());
}

// What `reprised token` prints, without the line's end.
std::string NewToken(const std::string& id, const std::string& file) {
  const std::string command =
      std::string(REPRISED_BINARY) + " token --id " + id + " --tenant acme --file " + file;
  FILE* output = popen(command.c_str(), "r");
  char text[512] = {};
  const size_t size = fread(text, 1, sizeof text - 1, output);
  EXPECT_EQ(pclose(output), 0);
  return std::string(text, size > 0 ? size - 1 : 0);
}

TEST_F(ReprisedTest, SighupReadsTokensAgainAndEndsNoCall) {
  const std::string file = work_.path() + "/tokens";
  const std::string first = NewToken("first", file);
  auto process = Start({"--token-file", file});
  const auto status_with = [&](const std::string& token) {
    grpc::ClientContext context;
    context.AddMetadata("authorization", "Bearer " + token);
    v1::ListSessionsResponse response;
    return sessions_->ListSessions(&context, {}, &response).error_code();
  };
  EXPECT_EQ(status_with(first), grpc::StatusCode::OK);
  EXPECT_EQ(status_with("reprise_first_x"), grpc::StatusCode::UNAUTHENTICATED);

  grpc::ClientContext context;
  context.AddMetadata("authorization", "Bearer " + first);
  v1::GenerateRequest request;
  request.mutable_tokens()->add_ids(3);
  request.mutable_stop()->set_max_tokens(2000);
  request.mutable_stop()->set_ignore_eos(true);
  auto reader = generation_->Generate(&context, request);
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));

  // The first is revoked, another is made.
  std::filesystem::remove(file);
  const std::string second = NewToken("second", file);
  process->Signal(SIGHUP);
  const absl::Time limit = absl::Now() + kPatience;
  while (status_with(second) != grpc::StatusCode::OK && absl::Now() < limit) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  EXPECT_EQ(status_with(second), grpc::StatusCode::OK);
  EXPECT_EQ(status_with(first), grpc::StatusCode::UNAUTHENTICATED);
  while (reader->Read(&response)) {
  }
  EXPECT_TRUE(reader->Finish().ok()) << "what had been admitted goes on";
  EXPECT_EQ(process->Stop(SIGTERM), 0);
}

TEST_F(ReprisedTest, TokensAreMadeForIdsThatTheFileDoesNotHave) {
  const std::string file = work_.path() + "/tokens";
  NewToken("a", file);
  EXPECT_EQ(Process({"token", "--id", "a", "--tenant", "acme", "--file", file}).Wait(), 2);
  EXPECT_EQ(Process({"token", "--id", "B", "--tenant", "acme", "--file", file}).Wait(), 2);
  EXPECT_EQ(Process({"token", "--id", "b"}).Wait(), 2);
  EXPECT_EQ(Process({"token", "--help"}).Wait(), 0);
  EXPECT_EQ(std::filesystem::status(file).permissions() & std::filesystem::perms::others_all,
            std::filesystem::perms::none);
}

TEST_F(ReprisedTest, ModelsThatDoNotFitTogetherAreSaidBeforeAnythingIsLoaded) {
  // Two caches of 400 MiB and small models; one such model has room in 600 MiB.
  const std::vector<std::string> budget = {
      "--prefix-cache-bytes", "419430400", "--max-request-bytes",  "1000000",
      "--max-parked-bytes",   "1000000",   "--prefix-spill-bytes", "0",
      "--memory-bytes",       "629145600"};
  const std::string second = "other=" + checkpoint_.path();
  EXPECT_EQ(Start(budget)->Stop(SIGTERM), 0);
  std::vector<std::string> two = budget;
  two.insert(two.end(),
             {"--model", "tiny=" + checkpoint_.path(), "--model", second, "--listen", "127.0.0.1:0",
              "--store", "disk:" + work_.path() + "/unused", "--threads", "1"});
  EXPECT_EQ(Process(two).Wait(), 1);
  EXPECT_FALSE(std::filesystem::exists(work_.path() + "/unused"));
  std::vector<std::string> fit = budget;
  fit[1] = "1000";
  fit.insert(fit.end(), {"--model", second});
  const auto process = Start(fit);
  grpc::ClientContext context;
  v1::ListModelsResponse response;
  ASSERT_TRUE(models_->ListModels(&context, {}, &response).ok());
  EXPECT_EQ(response.models_size(), 2);
  EXPECT_EQ(process->Stop(SIGTERM), 0);
}

TEST_F(ReprisedTest, WrongFlagsAreAUsageErrorAndAMissingModelIsNot) {
  EXPECT_EQ(Process({"--slots", "many"}).Wait(), 2);
  EXPECT_EQ(Process({}).Wait(), 2);
  EXPECT_EQ(Process({"--model", "m=/nowhere/at/all"}).Wait(), 1);
  EXPECT_EQ(Process({"--version"}).Wait(), 0);
}

}  // namespace
}  // namespace reprise::service
