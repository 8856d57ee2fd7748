// A mixer is the part of a layer that looks along time. It declares what it remembers and runs on a
// ragged batch; a new kind of recurrence is a new mixer and nothing else.
#ifndef REPRISE_MODELS_MIXERS_MIXER_H_
#define REPRISE_MODELS_MIXERS_MIXER_H_

#include "absl/status/status.h"
#include "kernels/kernels.h"
#include "kernels/matmul.h"
#include "models/activations.h"
#include "models/state_layout.h"
#include "models/state_slots.h"

namespace reprise::models {

// What all mixers of a step share. Borrowed for the call.
struct MixerStep {
  kernels::RaggedRows rows;
  const Activations* scratch = nullptr;  // with the step's rope tables
  StateSlots* slots = nullptr;
  kernels::Context context;
};

// Immutable after DeclareState.
class Mixer {
 public:
  virtual ~Mixer() = default;

  // Appends this layer's state tensors and remembers where they are. Called once.
  virtual void DeclareState(int layer, StateLayout& layout) = 0;

  // A mixer's step is a product of x, what lies between, and a product into out, in this order; x,
  // out: [num_rows, hidden]. Mix moves the states of the step's slots. All three may use all scratch
  // but what x and out are made of.
  virtual kernels::MatMulParams First(const MixerStep& step, const Operand& x) const = 0;
  virtual absl::Status Mix(const MixerStep& step) const = 0;
  virtual kernels::MatMulParams Last(const MixerStep& step, const Sink& out) const = 0;

  virtual size_t bytes() const = 0;  // of weights
};

}  // namespace reprise::models

#endif  // REPRISE_MODELS_MIXERS_MIXER_H_
