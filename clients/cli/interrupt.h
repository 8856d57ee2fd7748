// Ctrl-C as an event instead of a death.
#ifndef REPRISE_CLIENTS_CLI_INTERRUPT_H_
#define REPRISE_CLIENTS_CLI_INTERRUPT_H_

#include <functional>

namespace reprise::cli {

// Blocks SIGINT for this thread and those it starts, and waits for it in a thread of its own. To be
// called once, before any other thread exists. Without a handler set, SIGINT ends the process with
// 130.
void StartInterruptThread();

// While it lives, the first SIGINT calls `handler` on the interrupt thread; a second one ends the
// process. One at a time. The destructor waits for a running handler.
class OnInterrupt {
 public:
  explicit OnInterrupt(std::function<void()> handler);
  ~OnInterrupt();
  OnInterrupt(const OnInterrupt&) = delete;
  OnInterrupt& operator=(const OnInterrupt&) = delete;
};

}  // namespace reprise::cli

#endif  // REPRISE_CLIENTS_CLI_INTERRUPT_H_
