// What a client of a store has been told, and whether the store, opened again after a crash, keeps
// to it.
#ifndef REPRISE_TESTS_STATE_STORE_CRASH_LEDGER_H_
#define REPRISE_TESTS_STATE_STORE_CRASH_LEDGER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>

#include "state_store/session_store.h"

namespace reprise::state_store {

// One line of what the workload did: tried before the call, acknowledged after it.
struct CrashEvent {
  enum Kind : char { kTry = 'T', kAck = 'A', kTryDelete = 'd', kAckDelete = 'D' };
  Kind kind = kTry;
  std::string session;
  uint64_t version = 0;
  uint64_t seed = 0;  // of the head's state; kNoState: none
  bool sync = false;

  static constexpr uint64_t kNoState = UINT64_MAX;
  std::string ToLine() const;
  static CrashEvent FromLine(const std::string& line);
};

// Creates, commits (SYNC and ASYNC), forks, rewinds and deletes, always the same steps for one
// `seed`. Goes on after failed calls: then nothing is acknowledged.
void RunCrashWorkload(SessionStore& store, uint64_t seed, int steps,
                      const std::function<void(const CrashEvent&)>& emit);

class CrashLedger {
 public:
  // `all_lasting`: acknowledged means lasting also for ASYNC, as when only the process died.
  explicit CrashLedger(bool all_lasting) : all_lasting_(all_lasting) {}

  void Record(const CrashEvent& event);

  // EXPECTs that nothing lasting is lost, nothing moved that nobody tried to move, and every head
  // reads back as what was put under its version.
  void Check(SessionStore& store) const;

  int acks() const { return acks_; }

 private:
  struct Known {
    uint64_t version = 0;
    bool deleted = false;
  };

  bool all_lasting_;
  int acks_ = 0;
  std::map<std::string, std::map<uint64_t, std::set<uint64_t>>> tried_;  // session, version, seeds
  std::map<std::string, std::map<uint64_t, uint64_t>> acked_;
  std::set<std::string> delete_tried_;
  std::map<std::string, Known> latest_, lasting_;
};

}  // namespace reprise::state_store

#endif  // REPRISE_TESTS_STATE_STORE_CRASH_LEDGER_H_
