// What clients of a store did and were told, and whether sessions that are moved one step at a time
// explain all of it.
#ifndef REPRISE_TESTS_STATE_STORE_REDIS_HISTORY_H_
#define REPRISE_TESTS_STATE_STORE_REDIS_HISTORY_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace reprise::state_store {

// One call, with all its repeats.
struct HistoryEvent {
  enum Op : char {
    kCreate = 'C',
    kGet = 'G',
    kRead = 'R',  // of the head, with its bytes
    kCommit = 'W',
    kRewind = 'B',
    kFork = 'F',  // of the head of `source`
    kDelete = 'D'
  };
  enum Outcome : char {
    kOk = 'o',
    kUnknown = 'u',   // may have happened
    kRefused = 'n',   // ABORTED by the version
    kLeased = 'l',    // ABORTED by a lease
    kNotFound = 'f',  // no such session
    kFailed = 'e',    // did not happen, for want of a server
    kWrong = 'X'      // an answer that no store may give: wrong bytes, a wrong code
  };
  static constexpr uint64_t kNoState = UINT64_MAX;

  Op op = kGet;
  std::string session;
  std::string source = "-";
  uint64_t expected = 0;       // version, of commits and rewinds
  uint64_t state = kNoState;   // that a commit brings or a rewind goes back to
  int64_t begin = 0, end = 0;  // nanoseconds of the machine's steady clock
  Outcome outcome = kUnknown;
  uint64_t version = 0;            // told
  uint64_t told_state = kNoState;  // told; kNoState if nothing is committed

  std::string ToLine() const;
  static HistoryEvent FromLine(const std::string& line);
};

// Sentences about what cannot be; empty: all is well. Names of sessions are used once.
std::vector<std::string> CheckHistory(const std::vector<HistoryEvent>& events);

}  // namespace reprise::state_store

#endif  // REPRISE_TESTS_STATE_STORE_REDIS_HISTORY_H_
