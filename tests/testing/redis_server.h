// Real redis-server processes on loopback for tests. Each ends with its object, and with the test
// process however that ends.
#ifndef REPRISE_TESTS_TESTING_REDIS_SERVER_H_
#define REPRISE_TESTS_TESTING_REDIS_SERVER_H_

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "state_store/redis/connection.h"
#include "state_store/redis/reply.h"

namespace reprise::testing {

// A directory under $TMPDIR that goes with its object.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// A port of loopback that nobody listened on a moment ago.
uint16_t PickFreePort();

// Polls until `done`; false after a minute, which on any machine means that it will not happen.
bool WaitUntil(const std::function<bool()>& done);

struct RedisServerOptions {
  std::vector<std::string> arguments{};  // of redis-server, e.g. "--maxmemory", "10mb"
  std::string user{}, password{};        // that Do() uses; the server must be told in `arguments`
  bool tls = false;                      // on port(), with ca_file(); there is no plain port then
  bool sentinel = false;
  bool unix_socket = false;  // at unix_path(), beside the port
};

class RedisServer {
 public:
  // Waits until it answers; aborts the test process if it never does.
  explicit RedisServer(RedisServerOptions options = {});
  ~RedisServer();
  RedisServer(const RedisServer&) = delete;
  RedisServer& operator=(const RedisServer&) = delete;

  uint16_t port() const { return port_; }
  std::string url() const;  // redis:// or rediss://, without credentials
  std::string unix_path() const { return directory_.path() + "/redis.sock"; }
  std::string ca_file() const { return directory_.path() + "/cert.pem"; }
  const std::string& directory() const { return directory_.path(); }

  // SIGKILL, and waits for the end. What it had in memory only is gone.
  void Kill();
  // After Kill: again on the same port and directory. Ends with the thread that calls it.
  void Start();
  // No file of the server may grow past so many bytes, as on a disk that is full; UINT64_MAX: as
  // far as the system lets it.
  void LimitFileBytes(uint64_t bytes);
  // SIGSTOP and SIGCONT.
  void Pause();
  void Resume();

  // One command over a connection of its own; an error reply is a reply of type kError.
  state_store::redis::Reply Do(const std::vector<std::string>& command);
  // The value of one line of INFO, or "".
  std::string Info(const std::string& field);

 private:
  void MakeCertificate();
  bool Answers();

  RedisServerOptions options_;
  TemporaryDirectory directory_;
  uint16_t port_ = 0;
  uint16_t bus_port_ = 0;
  pid_t pid_ = -1;
};

// A master, its replicas, and three sentinels that watch it under the name "main".
class RedisSentinelSetup {
 public:
  explicit RedisSentinelSetup(int replicas);

  std::string url() const;  // redis-sentinel://
  // By what the servers say themselves; null if there is none now.
  RedisServer* master();
  std::vector<std::unique_ptr<RedisServer>>& servers() { return servers_; }
  std::vector<std::unique_ptr<RedisServer>>& sentinels() { return sentinels_; }
  // Until a master has `replicas` replicas that are in step, and all sentinels name it.
  bool WaitForReplicas(int replicas);

 private:
  std::vector<std::unique_ptr<RedisServer>> servers_;
  std::vector<std::unique_ptr<RedisServer>> sentinels_;
};

// Masters that share the slots evenly, each with `replicas_each` replicas.
class RedisCluster {
 public:
  explicit RedisCluster(int masters = 3, int replicas_each = 0);

  std::string url() const;                                               // redis-cluster://
  std::vector<std::unique_ptr<RedisServer>>& nodes() { return nodes_; }  // masters first
  // Index of the node that serves `slot` by its own word; -1 if none.
  int OwnerOf(uint16_t slot);
  // Begins to move `slot`, moves the keys that it holds now, and with `finish` hands it over.
  void MoveSlot(uint16_t slot, int from, int to, bool finish);
  void FinishMove(uint16_t slot, int from, int to);
  bool WaitUntilWhole();

 private:
  std::string NodeId(int node);

  std::vector<std::unique_ptr<RedisServer>> nodes_;
};

}  // namespace reprise::testing

#endif  // REPRISE_TESTS_TESTING_REDIS_SERVER_H_
