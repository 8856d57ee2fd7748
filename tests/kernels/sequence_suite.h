// One suite for every operation that carries state along a sequence: the reference, and all the
// ways of reaching a position that must give the same bits.
#ifndef REPRISE_TESTS_KERNELS_SEQUENCE_SUITE_H_
#define REPRISE_TESTS_KERNELS_SEQUENCE_SUITE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "kernels/kernels.h"

namespace reprise::kernels {

// A row of a step: token `t` of sequence `id`. Padding rows have id -1.
struct RowId {
  int id = -1;
  int64_t t = 0;
};

// An operation under test. Inputs are a function of RowId only.
class SequenceOp {
 public:
  virtual ~SequenceOp() = default;
  // Between slots, the canary at the end included. A state's type may differ between devices.
  virtual int64_t slot_bytes(Device device) const = 0;
  virtual int64_t state_bytes(Device device) const = 0;
  virtual int64_t out_dim() const = 0;
  virtual int64_t out_stride() const = 0;  // > out_dim: the rest must stay as it was
  virtual absl::Status Run(const RaggedRows& rows, const std::vector<RowId>& ids, void* state,
                           int num_slots, float* out, const Context& context) const = 0;
  // Outputs of tokens 0..tokens-1 of sequence `id`, from the inputs as the device gets them.
  virtual std::vector<double> Reference(int id, int64_t tokens, Device device) const = 0;
};

struct SequenceCase {
  std::string name;
  std::function<std::unique_ptr<SequenceOp>()> make;
  double tolerance = 0.0;
  int64_t tokens = 0;  // length of the sequence that is compared
  Device device = Device::kCpu;
  std::vector<std::vector<int64_t>> plans = {};  // chunks to compare; empty: the usual ones
};

inline std::ostream& operator<<(std::ostream& out, const SequenceCase& c) { return out << c.name; }

// One sequence of a run: it starts `delay` steps late and is fed `chunks`, round and round.
struct Feed {
  int id = 0;
  int slot = 0;
  int64_t tokens = 0;
  std::vector<int64_t> chunks;
  int delay = 0;
};

struct RunResult {
  std::map<int, std::vector<float>> outputs;   // by id: [tokens, out_dim]
  std::map<int, std::vector<uint8_t>> states;  // by id: [state_bytes]
};

// Runs all feeds together, step by step, on fresh slots full of NaN; with `padding`, every step
// has a padding sequence in its middle. Also checks that nothing else was written: other slots,
// the rest of every slot and of every output row; that padding rows are zero; and, on CUDA, that
// the queue's counters are.
RunResult RunFeeds(const SequenceOp& op, const std::vector<Feed>& feeds, int num_slots,
                   const Context& context, bool padding = false);

// The checks. Each fails the current test with a message, or skips it without the case's device.
void ExpectMatchesReference(const SequenceCase& test);
void ExpectSameBitsHoweverChunked(const SequenceCase& test);
void ExpectSameBitsInBatch(const SequenceCase& test);
void ExpectSameBitsForThreadsSlotsAndTargets(const SequenceCase& test);
void ExpectSameBitsThroughGraphs(const SequenceCase& test);  // CUDA only

}  // namespace reprise::kernels

#endif  // REPRISE_TESTS_KERNELS_SEQUENCE_SUITE_H_
