#include "clients/cli/interrupt.h"

#include <pthread.h>
#include <unistd.h>

#include <csignal>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "clients/cli/errors.h"

namespace reprise::cli {
namespace {

struct State {
  absl::Mutex mutex;
  std::function<void()> handler ABSL_GUARDED_BY(mutex);
  bool running ABSL_GUARDED_BY(mutex) = false;
};

// The process has one SIGINT, so this has one state; it outlives main on purpose.
State& GlobalState() {
  static State& state = *new State;
  return state;
}

[[noreturn]] void EndProcess() {
  // Destructors would wait for calls that nobody wants any more.
  ::_exit(kExitInterrupted);
}

void WaitForSignals(sigset_t set) {
  State& state = GlobalState();
  while (true) {
    int signal = 0;
    if (sigwait(&set, &signal) != 0) continue;
    std::function<void()> handler;
    {
      absl::MutexLock lock(&state.mutex);
      if (!state.handler) EndProcess();
      handler = std::exchange(state.handler, nullptr);
      state.running = true;
    }
    // On a thread of its own, so that a second Ctrl-C is still heard.
    std::thread([handler = std::move(handler), &state] {
      handler();
      absl::MutexLock lock(&state.mutex);
      state.running = false;
    }).detach();
  }
}

}  // namespace

void StartInterruptThread() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::thread(WaitForSignals, set).detach();
}

OnInterrupt::OnInterrupt(std::function<void()> handler) {
  absl::MutexLock lock(&GlobalState().mutex);
  GlobalState().handler = std::move(handler);
}

OnInterrupt::~OnInterrupt() {
  State& state = GlobalState();
  absl::MutexLock lock(&state.mutex);
  state.handler = nullptr;
  state.mutex.Await(absl::Condition(
      +[](State* s) ABSL_NO_THREAD_SAFETY_ANALYSIS { return !s->running; }, &state));
}

}  // namespace reprise::cli
