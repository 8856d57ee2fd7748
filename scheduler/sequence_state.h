// The state of a sequence between two requests.
#ifndef REPRISE_SCHEDULER_SEQUENCE_STATE_H_
#define REPRISE_SCHEDULER_SEQUENCE_STATE_H_

#include <cstdint>
#include <optional>
#include <string>

#include "base/bytes.h"

namespace reprise::scheduler {

// The invariant that makes every continuation alike: the state has consumed all of the sequence's
// tokens but the last, which waits in `pending` and is the first to be fed when the sequence goes
// on.
struct SequenceState {
  Bytes image;                     // StateLayout().bytes(); empty = nothing consumed (zero state)
  int64_t position = 0;            // tokens consumed
  std::optional<int32_t> pending;  // absent only for a sequence without tokens

  // For the prefix cache: names these very bits, image and pending token, among all states of the
  // tenant. Empty: what follows this state is not cached.
  std::string name = {};

  int64_t token_count() const { return position + (pending.has_value() ? 1 : 0); }
};

}  // namespace reprise::scheduler

#endif  // REPRISE_SCHEDULER_SEQUENCE_STATE_H_
