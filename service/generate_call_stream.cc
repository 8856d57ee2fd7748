// What gRPC calls: one write at a time.
#include <algorithm>
#include <utility>

#include "service/generate_call.h"
#include "service/status_to_grpc.h"
#include "service/wire_codec.h"

namespace reprise::service {

std::optional<v1::GenerateResponse> GenerateCall::NextEvent() {
  const bool in_turns = !ranks();
  for (size_t i = 0; i < writers_.size(); ++i) {
    const size_t at = ((in_turns ? next_writer_ : 0) + i) % writers_.size();
    std::optional<v1::GenerateResponse> event = writers_[at]->TakeEvent();
    if (!event.has_value()) continue;
    writing_ = writers_[at];
    next_writer_ = at + 1;
    return event;
  }
  return std::nullopt;
}

bool GenerateCall::HasEvent() const {
  return std::any_of(writers_.begin(), writers_.end(),
                     [](const Choice* choice) { return choice->HasEvent(); });
}

void GenerateCall::Pump() {
  enum class Next { kNothing, kWrite, kFinish, kLast } next = Next::kNothing;
  grpc::Status status;
  bool last_words = false;  // the client hears of the end by this
  {
    absl::MutexLock lock(&mutex_);
    if (writing_ != nullptr || finishing_) return;
    std::optional<v1::GenerateResponse> event;
    if (!broken_) event = NextEvent();
    if (event.has_value()) {
      in_flight_ = SerializeMessage(*event);
      last_words = telling_choices_ == 0 && !HasEvent();
      finishing_ = last_words && ended_ && status_.ok();
      next = finishing_ ? Next::kLast : Next::kWrite;
    } else if (ended_) {
      finishing_ = last_words = true;
      status = ToGrpcStatus(status_);
      next = Next::kFinish;
    }
  }
  if (last_words) admission_.GiveBack();
  // gRPC may call back at once, from this very call.
  switch (next) {
    case Next::kNothing:
      break;
    case Next::kWrite:
      StartWrite(&in_flight_);
      break;
    case Next::kLast:
      StartWriteAndFinish(&in_flight_, grpc::WriteOptions(), grpc::Status::OK);
      break;
    case Next::kFinish:
      Finish(status);
      break;
  }
}

void GenerateCall::OnWriteDone(bool ok) {
  bool wake;
  {
    absl::MutexLock lock(&mutex_);
    wake = std::exchange(writing_, nullptr)->NoteWritten();
    if (!ok) broken_ = true;  // OnCancel comes too, and ends the sequences
  }
  for (const auto& choice : choices_) {
    if (!ok) choice->Break();
    choice->NoteProgress();
  }
  Pump();
  if (wake) model_->scheduler->Wake();
}

void GenerateCall::OnCancel() {
  std::optional<scheduler::RequestId> running;
  {
    absl::MutexLock lock(&mutex_);
    cancelled_ = true;
    running = running_;
  }
  CancelChoices(running);
}

void GenerateCall::OnDone() {
  admission_.pass = {};
  self_.reset();  // may be the last reference: nothing after this line
}

}  // namespace reprise::service
