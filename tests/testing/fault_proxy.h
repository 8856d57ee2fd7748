// A TCP proxy on loopback that breaks connections the way networks do.
#ifndef REPRISE_TESTS_TESTING_FAULT_PROXY_H_
#define REPRISE_TESTS_TESTING_FAULT_PROXY_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"

namespace reprise::testing {

// Thread-safe. Forwards until told otherwise; what it is told holds for connections old and new.
class FaultProxy {
 public:
  explicit FaultProxy(uint16_t target_port);
  ~FaultProxy();
  FaultProxy(const FaultProxy&) = delete;
  FaultProxy& operator=(const FaultProxy&) = delete;

  uint16_t port() const { return port_; }
  std::string url() const { return "redis://127.0.0.1:" + std::to_string(port_); }

  // Resets a connection once it has carried so many more bytes, summed over all connections, to the
  // server or to the client; then forwards again. Negative: never.
  void CutAfterToServer(int64_t bytes) { to_server_left_ = bytes; }
  void CutAfterToClient(int64_t bytes) { to_client_left_ = bytes; }
  // Swallows everything and closes nothing, as a host that vanished.
  void BlackHole(bool on) { black_hole_ = on; }
  // Forwards one byte at a time, 100 per second, to the client.
  void Drip(bool on) { drip_ = on; }
  // What comes from the server is held up for so long each time.
  void Delay(absl::Duration latency) { delay_micros_ = absl::ToInt64Microseconds(latency); }
  // So many of a thousand answers are dropped, and their connections reset.
  void ResetPerMille(int answers) { reset_per_mille_ = answers; }
  // `meanwhile` runs before the `nth` (from 1) piece of bytes to the server that holds `text`,
  // while its connection stands still; if false, it is reset instead. Once, and one at a time.
  void Before(std::string text, int nth, std::function<bool()> meanwhile) ABSL_LOCKS_EXCLUDED(mu_);
  // Connections are accepted and closed at once.
  void Refuse(bool on) { refuse_ = on; }

  int cuts() const { return cuts_; }

 private:
  void Run();
  void Serve(UniqueFd client);
  // Whether the piece goes on.
  bool Interrupt(std::string_view piece) ABSL_LOCKS_EXCLUDED(mu_);

  const uint16_t target_port_;
  uint16_t port_ = 0;
  UniqueFd listener_;
  std::atomic<int64_t> to_server_left_ = -1;
  std::atomic<int64_t> to_client_left_ = -1;
  std::atomic<int64_t> delay_micros_ = 0;
  std::atomic<int> reset_per_mille_ = 0;
  std::atomic<uint64_t> random_ = 1;
  std::atomic<bool> black_hole_ = false;
  std::atomic<bool> drip_ = false;
  std::atomic<bool> refuse_ = false;
  std::atomic<bool> stopping_ = false;
  std::atomic<int> cuts_ = 0;
  absl::Mutex mu_;
  std::vector<std::thread> connections_ ABSL_GUARDED_BY(mu_);
  std::string awaited_ ABSL_GUARDED_BY(mu_);
  int awaited_left_ ABSL_GUARDED_BY(mu_) = 0;
  std::function<bool()> meanwhile_ ABSL_GUARDED_BY(mu_);
  std::thread acceptor_;  // last: joined first
};

}  // namespace reprise::testing

#endif  // REPRISE_TESTS_TESTING_FAULT_PROXY_H_
