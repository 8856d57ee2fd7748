// A server that speaks Redis' protocol and answers out of a fuzzer's bytes: mostly in the shape
// that the store asks for, with sealed records that hold whatever the bytes say, sometimes not at
// all.
#ifndef REPRISE_TESTS_FUZZ_FAKE_REDIS_H_
#define REPRISE_TESTS_FUZZ_FAKE_REDIS_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/hash.h"
#include "state_store/redis/keys.h"
#include "state_store/redis/record.h"
#include "state_store/redis/reply.h"

namespace reprise::state_store::redis {

// Of tenant "t", whose sessions are "a" and "b". Runs until the process ends.
class FakeRedis {
 public:
  FakeRedis();
  std::string url() const { return "unix://" + path_; }
  // What answers are made of from now on; when it is used up, all answers are errors.
  void Feed(std::string_view bytes) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  using Command = std::vector<std::string>;

  void Run();
  // What has come; false: the connection is to be closed.
  bool Serve(int socket, ReplyReader& reader) ABSL_LOCKS_EXCLUDED(mutex_);
  // `end`: the connection is closed behind it.
  std::string Answer(const Command& command, bool* end) ABSL_LOCKS_EXCLUDED(mutex_);
  std::string Shaped(const Command& command) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::string OfScript(const Command& command) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::string Any(int depth) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The value of a hash's field, as a bulk string.
  std::string Value(const std::string& key, const std::string& field)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::string Plain(const std::string& field) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::string Listed() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Session MakeSession() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::string MakeRecord() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::string MakeManifest(const std::string& id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::string MakeRequest(const std::string& field) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  uint8_t Byte() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint64_t Number() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);  // small ones mostly
  std::string Text() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::string Id() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);  // of few snapshots, pins or requests
  std::string Tenant() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string path_;
  const Keys keys_{"reprise:1:"};
  int listening_ = -1;
  absl::Mutex mutex_;
  std::string bytes_ ABSL_GUARDED_BY(mutex_);
  size_t at_ ABSL_GUARDED_BY(mutex_) = 0;
  std::string head_ ABSL_GUARDED_BY(mutex_);                           // of the last record made
  std::map<std::string, std::string> chunks_ ABSL_GUARDED_BY(mutex_);  // bytes by key
};

}  // namespace reprise::state_store::redis

#endif  // REPRISE_TESTS_FUZZ_FAKE_REDIS_H_
