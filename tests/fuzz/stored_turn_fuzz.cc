// What a turn reads of a snapshot beside its tensors, as whoever sent the snapshot, or can write to
// the store, may have made it: identity, position, legs, the progress of a turn that was
// interrupted. The first byte chooses.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>

#include "models/tokenizer/detokenizer.h"
#include "scheduler/session_state.h"
#include "scheduler/testing/puppet_model.h"
#include "service/served_model.h"
#include "service/turn_progress.h"
#include "tests/service/testing/byte_tokenizer.h"

namespace reprise::service {
namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

// As ServeModel makes it, without a scheduler.
const ServedModel& Model() {
  static const ServedModel& model = *[] {
    auto made = std::make_unique<ServedModel>();
    scheduler::PuppetModel::Options puppet;
    puppet.vocab_size = testing::ByteTokenizer::kVocabulary;
    made->model = std::make_unique<scheduler::PuppetModel>(puppet);
    made->tokenizer = std::make_unique<testing::ByteTokenizer>();
    made->identity.weights_fingerprint = made->model->info().weights_fingerprint;
    made->identity.tokenizer_fingerprint = made->tokenizer->fingerprint();
    made->identity.layout_digest = made->model->state_layout().Digest();
    made->identity.numerics_id = "n";
    return made.release();
  }();
  return model;
}

void FuzzProgress(const std::string& bytes) {
  const auto progress = DecodeProgress(bytes);
  if (!progress.ok()) return Require(absl::IsDataLoss(progress.status()));
  Require(progress->prompt_done >= 0 && progress->prompt_done <= progress->prompt_tokens);
  Require(DecodeProgress(EncodeProgress(*progress)).ok());
}

// Takes numbers and texts off the front.
class Source {
 public:
  explicit Source(std::string_view bytes) : rest_(bytes) {}
  std::string_view Take(size_t size) {
    const std::string_view taken = rest_.substr(0, std::min(size, rest_.size()));
    rest_.remove_prefix(taken.size());
    return taken;
  }
  uint8_t Byte() {
    const std::string_view one = Take(1);
    return one.empty() ? 0 : static_cast<uint8_t>(one[0]);
  }
  uint64_t Number() {
    uint64_t value = 0;
    for (const char c : Take(8)) value = value << 8 | static_cast<uint8_t>(c);
    return value;
  }
  std::string Text() { return std::string(Take(Byte())); }

 private:
  std::string_view rest_;
};

void FuzzLegs(const std::string& bytes) {
  Source source(bytes);
  const ServedModel& model = Model();
  state_store::Snapshot snapshot;
  state_store::SnapshotManifest& manifest = snapshot.manifest;
  const uint8_t honest = source.Byte();
  manifest.weights_fingerprint = honest & 1 ? source.Text() : model.identity.weights_fingerprint;
  manifest.tokenizer_fingerprint =
      honest & 2 ? source.Text() : model.identity.tokenizer_fingerprint;
  manifest.layout_digest = honest & 4 ? source.Text() : model.identity.layout_digest;
  manifest.kernel_order_id = honest & 8 ? source.Text() : model.identity.numerics_id;
  manifest.grid_tokens = honest & 16 ? source.Byte() : kernels::kGridTokens;
  manifest.position = source.Number();
  manifest.token_count = honest & 32 ? source.Number() : manifest.position + 1;
  for (const char* leg : {"sampler", "detokenizer", "pending_tokens", kProgressLeg}) {
    if (source.Byte() % 4 != 0) manifest.legs[leg] = source.Text();
  }
  for (const models::StateTensor& tensor : model.layout().tensors()) {
    const uint8_t part = source.Byte();
    if (part == 0) break;
    state_store::SnapshotPart& made = manifest.parts.emplace_back();
    made.name = part & 1 ? tensor.Name() : source.Text();
    made.dtype = part & 2 ? kernels::DTypeName(tensor.dtype) : source.Text();
    made.shape.assign(tensor.shape.begin(), tensor.shape.end());
    if ((part & 4) == 0) made.shape.push_back(source.Number());
    snapshot.payloads.emplace_back(part & 8 ? tensor.bytes : source.Byte(), 'x');
  }
  const auto legs = RestoreChecked(model, snapshot);
  if (!legs.ok()) return;
  const scheduler::SequenceState& sequence = legs->sequence;
  Require(sequence.position >= 0 && sequence.token_count() == sequence.position + 1);
  Require(sequence.pending.has_value() && *sequence.pending >= 0 &&
          *sequence.pending < model.vocab_size());
  Require(sequence.image.size() == (sequence.position == 0 ? 0 : model.layout().bytes()));
  models::Detokenizer detokenizer(model.tokenizer.get());
  if (detokenizer.RestoreState(legs->detokenizer).ok()) {
    Require(detokenizer.SaveState() == legs->detokenizer);
    Require(detokenizer.Append(*sequence.pending).ok());
  }
}

}  // namespace
}  // namespace reprise::service

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace reprise::service;
  if (size == 0) return 0;
  const std::string bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  data[0] % 2 == 0 ? FuzzProgress(bytes) : FuzzLegs(bytes);
  return 0;
}
