#include "tests/testing/redis_server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "base/unique_fd.h"
#include "state_store/redis/error.h"

namespace reprise::testing {
namespace {

using state_store::redis::Connection;
using state_store::redis::ConnectionOptions;
using state_store::redis::DeadlineAfter;
using state_store::redis::Endpoint;
using state_store::redis::Reply;

[[noreturn]] void Die(const std::string& problem) {
  std::fprintf(stderr, "redis_server: %s\n", problem.c_str());
  std::abort();
}

// Runs a program with its output in `log`; ends with the thread that started it.
pid_t Spawn(const std::vector<std::string>& arguments, const std::string& log) {
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(1);
  const int out = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  ::dup2(out, 1);
  ::dup2(out, 2);
  // LimitFileBytes is to make writes fail and not to end the program; this outlives the exec.
  ::signal(SIGXFSZ, SIG_IGN);
  ::execvp(argv[0], argv.data());
  ::_exit(127);
}

int RunProgram(const std::vector<std::string>& arguments, const std::string& log) {
  int status = -1;
  const pid_t pid = Spawn(arguments, log);
  if (pid < 0 || ::waitpid(pid, &status, 0) != pid) return -1;
  return status;
}

Endpoint Loopback(uint16_t port) { return {.host = "127.0.0.1", .port = port}; }

std::string Name(const RedisServer& server) { return "127.0.0.1:" + std::to_string(server.port()); }

}  // namespace

TemporaryDirectory::TemporaryDirectory() {
  const char* base = std::getenv("TMPDIR");
  path_ = std::string(base != nullptr ? base : "/tmp") + "/reprise-redis-XXXXXX";
  if (::mkdtemp(path_.data()) == nullptr) Die("no temporary directory");
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

uint16_t PickFreePort() {
  const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    Die("no free port");
  }
  return ntohs(address.sin_port);
}

bool WaitUntil(const std::function<bool()>& done) {
  for (int i = 0; i < 6000; ++i) {
    if (done()) return true;
    absl::SleepFor(absl::Milliseconds(10));
  }
  return false;
}

RedisServer::RedisServer(RedisServerOptions options) : options_(std::move(options)) {
  if (options_.tls) MakeCertificate();
  Start();
}

RedisServer::~RedisServer() { Kill(); }

void RedisServer::MakeCertificate() {
  const int status = RunProgram(
      {"openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
       "-nodes", "-keyout", directory_.path() + "/key.pem", "-out", ca_file(), "-days", "2",
       "-subj", "/CN=reprise-test", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"},
      directory_.path() + "/openssl.log");
  if (status != 0) Die("openssl made no certificate");
}

void RedisServer::Start() {
  // The port may be taken by somebody between the choice and the start: then another is tried, but
  // only for the first start, after which others know the port.
  const bool first = port_ == 0;
  for (int attempt = 0; attempt < 5; ++attempt) {
    if (first) {
      port_ = PickFreePort();
      bus_port_ = PickFreePort();
    }
    std::vector<std::string> arguments = {"redis-server"};
    if (options_.sentinel) {
      // A sentinel rewrites its file, so it must exist.
      const std::string config = directory_.path() + "/sentinel.conf";
      if (!std::filesystem::exists(config)) std::ofstream(config).flush();
      arguments.insert(arguments.end(), {config, "--sentinel"});
    } else {
      arguments.insert(arguments.end(), {"--save", "", "--cluster-port", std::to_string(bus_port_),
                                         "--repl-diskless-sync-delay", "0"});
    }
    arguments.insert(arguments.end(), {"--bind", "127.0.0.1", "--dir", directory_.path()});
    const std::string port = std::to_string(port_);
    if (options_.tls) {
      arguments.insert(arguments.end(),
                       {"--port", "0", "--tls-port", port, "--tls-cert-file", ca_file(),
                        "--tls-key-file", directory_.path() + "/key.pem", "--tls-ca-cert-file",
                        ca_file(), "--tls-auth-clients", "no"});
    } else {
      arguments.insert(arguments.end(), {"--port", port});
    }
    if (options_.unix_socket) {
      arguments.insert(arguments.end(), {"--unixsocket", unix_path()});
    }
    arguments.insert(arguments.end(), options_.arguments.begin(), options_.arguments.end());
    pid_ = Spawn(arguments, directory_.path() + "/log");
    bool gone = false;
    const bool up = WaitUntil([&] {
      gone = ::waitpid(pid_, nullptr, WNOHANG) == pid_;
      return gone || Answers();
    });
    if (up && !gone) return;
    if (gone) pid_ = -1;
    Kill();
    if (!first) break;
  }
  std::ifstream log(directory_.path() + "/log");
  Die("redis-server does not start: " + std::string(std::istreambuf_iterator<char>(log), {}));
}

void RedisServer::LimitFileBytes(uint64_t bytes) {
  rlimit limit{};
  if (::prlimit(pid_, RLIMIT_FSIZE, nullptr, &limit) != 0) Die("prlimit");
  limit.rlim_cur = std::min<rlim_t>(bytes, limit.rlim_max);
  if (::prlimit(pid_, RLIMIT_FSIZE, &limit, nullptr) != 0) Die("prlimit");
}

bool RedisServer::Answers() {
  const Reply reply = Do({"PING"});
  // Loading its file or forbidden to PING counts: it is there.
  return reply.type == Reply::Type::kStatus ||
         (reply.is_error() && reply.text.find("refused") == std::string::npos &&
          reply.text.find("LOADING") == std::string::npos &&
          reply.text.find("closed") == std::string::npos);
}

void RedisServer::Kill() {
  if (pid_ < 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

void RedisServer::Pause() { ::kill(pid_, SIGSTOP); }
void RedisServer::Resume() { ::kill(pid_, SIGCONT); }

std::string RedisServer::url() const {
  return (options_.tls ? "rediss://127.0.0.1:" : "redis://127.0.0.1:") + std::to_string(port_);
}

Reply RedisServer::Do(const std::vector<std::string>& command) {
  Reply failed;
  failed.type = Reply::Type::kError;
  const auto fail = [&](const absl::Status& status) {
    failed.text = std::string(status.message());
    return failed;
  };
  ConnectionOptions options;
  options.connect_timeout = absl::Seconds(20);
  options.user = options_.user;
  options.password = options_.password;
  if (options_.tls) {
    auto tls = state_store::redis::TlsContext::Create({.ca_file = ca_file()});
    if (!tls.ok()) return fail(tls.status());
    options.tls = *std::move(tls);
  }
  auto connection = Connection::Connect(Loopback(port_), options, DeadlineAfter(absl::Seconds(20)));
  if (!connection.ok()) return fail(connection.status());
  auto reply =
      (*connection)->Call({command.begin(), command.end()}, DeadlineAfter(absl::Minutes(1)));
  return reply.ok() ? *std::move(reply) : fail(reply.status());
}

std::string RedisServer::Info(const std::string& field) {
  const std::string info = Do({"INFO", "everything"}).text;
  const size_t at = info.find("\n" + field + ":");
  if (at == std::string::npos) return "";
  const size_t begin = at + field.size() + 2;
  return info.substr(begin, info.find('\r', begin) - begin);
}

RedisSentinelSetup::RedisSentinelSetup(int replicas) {
  for (int i = 0; i <= replicas; ++i) {
    RedisServerOptions options;
    if (i > 0) {
      options.arguments = {"--replicaof", "127.0.0.1 " + std::to_string(servers_[0]->port())};
    }
    servers_.push_back(std::make_unique<RedisServer>(options));
  }
  const std::string master_port = std::to_string(servers_[0]->port());
  for (int i = 0; i < 3; ++i) {
    sentinels_.push_back(std::make_unique<RedisServer>(RedisServerOptions{.sentinel = true}));
    RedisServer& sentinel = *sentinels_.back();
    sentinel.Do({"SENTINEL", "MONITOR", "main", "127.0.0.1", master_port, "2"});
    sentinel.Do({"SENTINEL", "SET", "main", "down-after-milliseconds", "1000"});
    sentinel.Do({"SENTINEL", "SET", "main", "failover-timeout", "5000"});
  }
  if (!WaitForReplicas(replicas)) Die("replicas do not come up");
}

std::string RedisSentinelSetup::url() const {
  std::string url = "redis-sentinel://";
  for (const auto& sentinel : sentinels_) {
    if (url.back() != '/') url += ",";
    url += Name(*sentinel);
  }
  return url + "/main";
}

RedisServer* RedisSentinelSetup::master() {
  for (const auto& server : servers_) {
    if (server->Info("role") == "master") return server.get();
  }
  return nullptr;
}

bool RedisSentinelSetup::WaitForReplicas(int replicas) {
  return WaitUntil([&] {
    RedisServer* server = master();
    if (server == nullptr) return false;
    int in_step = 0;
    for (int i = 0; i < static_cast<int>(servers_.size()); ++i) {
      const std::string line = server->Info("slave" + std::to_string(i));
      if (line.find("state=online") != std::string::npos) ++in_step;
    }
    if (in_step < replicas) return false;
    for (const auto& sentinel : sentinels_) {
      const Reply reply = sentinel->Do({"SENTINEL", "MASTER", "main"});
      std::string port, others, slaves, flags;
      for (size_t i = 0; i + 1 < reply.elements.size(); i += 2) {
        const std::string& name = reply.elements[i].text;
        const std::string& value = reply.elements[i + 1].text;
        if (name == "port") port = value;
        if (name == "num-other-sentinels") others = value;
        if (name == "num-slaves") slaves = value;
        if (name == "flags") flags = value;
      }
      if (port != std::to_string(server->port()) || others != "2" || flags != "master" ||
          std::atoi(slaves.c_str()) < replicas) {
        return false;
      }
    }
    return true;
  });
}

RedisCluster::RedisCluster(int masters, int replicas_each) {
  const int count = masters * (1 + replicas_each);
  for (int i = 0; i < count; ++i) {
    nodes_.push_back(std::make_unique<RedisServer>(
        RedisServerOptions{.arguments = {"--cluster-enabled", "yes", "--cluster-node-timeout",
                                         "2000", "--cluster-require-full-coverage", "no"}}));
  }
  std::vector<std::string> create = {"redis-cli", "--cluster", "create"};
  for (const auto& node : nodes_) create.push_back(Name(*node));
  create.insert(create.end(),
                {"--cluster-replicas", std::to_string(replicas_each), "--cluster-yes"});
  if (RunProgram(create, nodes_[0]->directory() + "/create.log") != 0) {
    std::ifstream log(nodes_[0]->directory() + "/create.log");
    Die("no cluster: " + std::string(std::istreambuf_iterator<char>(log), {}));
  }
  if (!WaitUntilWhole()) Die("the cluster does not come up");
}

std::string RedisCluster::url() const {
  std::string url = "redis-cluster://";
  for (const auto& node : nodes_) {
    if (url.back() != '/') url += ",";
    url += Name(*node);
  }
  return url;
}

bool RedisCluster::WaitUntilWhole() {
  return WaitUntil([&] {
    for (const auto& node : nodes_) {
      const std::string info = node->Do({"CLUSTER", "INFO"}).text;
      if (info.find("cluster_state:ok") == std::string::npos ||
          info.find("cluster_slots_assigned:16384") == std::string::npos ||
          info.find("cluster_known_nodes:" + std::to_string(nodes_.size())) == std::string::npos) {
        return false;
      }
    }
    return true;
  });
}

std::string RedisCluster::NodeId(int node) { return nodes_[node]->Do({"CLUSTER", "MYID"}).text; }

int RedisCluster::OwnerOf(uint16_t slot) {
  for (size_t i = 0; i < nodes_.size(); ++i) {
    const std::string id = NodeId(static_cast<int>(i));
    const Reply slots = nodes_[i]->Do({"CLUSTER", "SLOTS"});
    for (const Reply& range : slots.elements) {
      if (range.elements.size() < 3 || range.elements[0].integer > slot ||
          range.elements[1].integer < slot || range.elements[2].elements.size() < 3) {
        continue;
      }
      if (range.elements[2].elements[2].text == id) return static_cast<int>(i);
    }
  }
  return -1;
}

void RedisCluster::MoveSlot(uint16_t slot, int from, int to, bool finish) {
  const std::string number = std::to_string(slot);
  nodes_[to]->Do({"CLUSTER", "SETSLOT", number, "IMPORTING", NodeId(from)});
  nodes_[from]->Do({"CLUSTER", "SETSLOT", number, "MIGRATING", NodeId(to)});
  // A move that is not whole must not be finished: the keys left behind would be deleted.
  const bool moved = WaitUntil([&] {
    const Reply keys = nodes_[from]->Do({"CLUSTER", "GETKEYSINSLOT", number, "1000"});
    for (const Reply& key : keys.elements) {
      nodes_[from]->Do(
          {"MIGRATE", "127.0.0.1", std::to_string(nodes_[to]->port()), key.text, "0", "60000"});
    }
    return keys.type == Reply::Type::kArray && keys.elements.empty();
  });
  if (!moved) Die("a slot does not move");
  if (finish) FinishMove(slot, from, to);
}

void RedisCluster::FinishMove(uint16_t slot, int from, int to) {
  const std::string number = std::to_string(slot), id = NodeId(to);
  nodes_[to]->Do({"CLUSTER", "SETSLOT", number, "NODE", id});
  nodes_[from]->Do({"CLUSTER", "SETSLOT", number, "NODE", id});
}

}  // namespace reprise::testing
