// Stores a running turn's checkpoints, one at a time, on I/O threads.
#ifndef REPRISE_SERVICE_CHECKPOINTER_H_
#define REPRISE_SERVICE_CHECKPOINTER_H_

#include <functional>
#include <memory>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "service/session_turn.h"
#include "service/worker_pool.h"

namespace reprise::service {

// A checkpoint that comes while another is stored waits; one that comes while one waits takes its
// place. Thread-safe.
class Checkpointer {
 public:
  // `io` is borrowed. `store` runs on its threads, one call at a time. `caught_up` is called after
  // each, on the same thread.
  Checkpointer(WorkerPool* io, std::function<void(SessionTurn::Standing)> store,
               std::function<void()> caught_up);

  // Does not block. `owner` keeps this object alive while it is at work.
  void Offer(SessionTurn::Standing standing, std::shared_ptr<void> owner);
  // One is being stored and another waits: a sequence that went on would get too far ahead.
  bool behind() const;
  // Takes no more, drops what waits, and runs `then` on an I/O thread when nothing is being stored.
  // Once only.
  void Close(std::function<void()> then);

 private:
  void Run(SessionTurn::Standing standing, std::shared_ptr<void> owner);

  WorkerPool* const io_;
  const std::function<void(SessionTurn::Standing)> store_;
  const std::function<void()> caught_up_;
  mutable absl::Mutex mutex_;
  bool storing_ ABSL_GUARDED_BY(mutex_) = false;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<SessionTurn::Standing> waiting_ ABSL_GUARDED_BY(mutex_);
  std::function<void()> then_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_CHECKPOINTER_H_
