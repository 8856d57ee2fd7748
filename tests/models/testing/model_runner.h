// A loaded random model with slots, and comparisons by bits.
#ifndef REPRISE_TESTS_MODELS_TESTING_MODEL_RUNNER_H_
#define REPRISE_TESTS_MODELS_TESTING_MODEL_RUNNER_H_

#include <memory>
#include <string>
#include <vector>

#include "kernels/device_queue.h"
#include "models/load_model.h"
#include "models/ragged_batch.h"
#include "models/state_slots.h"
#include "tests/models/testing/random_checkpoint.h"

namespace reprise::models::testing {

using Logits = std::vector<float>;   // [rows, vocab]
using Image = std::vector<uint8_t>;  // an exported state

// Consecutive tokens of one sequence within a step.
struct Piece {
  int slot;
  int64_t position;
  std::vector<int32_t> tokens;
};

// False where the tests of CUDA have to be skipped.
bool HasCuda();

// Aborts the test on any error: tests of errors call the model itself.
class ModelRunner {
 public:
  ModelRunner(const nlohmann::json& config, int num_slots, int threads = 2, uint64_t seed = 1,
              const std::string& dtype = "F32", kernels::Device device = kernels::Device::kCpu,
              WeightFormat format = WeightFormat::kCheckpoint);

  HybridModel& model() { return *loaded_.model; }
  StateSlots& slots() { return *slots_; }
  int vocab() const { return loaded_.model->info().vocab_size; }

  SlotHandle Acquire();
  // One step; logits of all rows.
  Logits Step(const std::vector<Piece>& pieces);
  // Feeds `tokens` from `position` on in steps of the given sizes; logits of all rows.
  Logits Feed(int slot, int64_t position, const std::vector<int32_t>& tokens,
              const std::vector<int>& chunks);
  Image Export(int slot);
  void Import(int slot, const Image& image);

 private:
  TempDir folder_;
  std::unique_ptr<kernels::ThreadPool> pool_;
  std::unique_ptr<kernels::DeviceQueue> queue_;
  LoadedModel loaded_;
  std::unique_ptr<StateSlots> slots_;
};

// Empty when equal, else how many elements differ and the first that does.
std::string BitDifference(const Logits& a, const Logits& b);
std::string BitDifference(const Image& a, const Image& b);

template <typename T>
std::vector<T> Slice(const std::vector<T>& values, int64_t begin, int64_t end) {
  return std::vector<T>(values.begin() + begin, values.begin() + end);
}

}  // namespace reprise::models::testing

#endif  // REPRISE_TESTS_MODELS_TESTING_MODEL_RUNNER_H_
