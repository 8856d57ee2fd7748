// One Generate call, from its request to its last message.
//
//   1. Start (gRPC's thread) hands the call to an I/O thread; nothing waits.
//   2. Prepare (I/O thread): check fields, begin the session's turn, find the model, encode the
//      prompt, submit to the scheduler; then read the session's state, while others are computed.
//   3. Each answer is a Choice, which makes events of its tokens (scheduler's thread); Pump writes
//      them when the stream is free, the choices in turns. A choice whose events pile up pauses its
//      own sequence. OnCheckpoint, if asked for, hands a state to the checkpointer.
//   4. OnEnd (scheduler's thread): the choice's `finished`; with a session, Commit on an I/O
//      thread. Answers that are to be ranked wait for each other first.
//   5. End, when all choices have ended: what is pending, then the last message or the failed
//      status; OnDone.
// Cancel, deadline and a vanished client all come in as OnCancel, which ends step 3 within one
// step. generate_call.cc has the steps 1 and 2, generate_call_end.cc 4 and 5,
// generate_call_stream.cc what gRPC calls.
#ifndef REPRISE_SERVICE_GENERATE_CALL_H_
#define REPRISE_SERVICE_GENERATE_CALL_H_

#include <grpcpp/grpcpp.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "reprise/v1/generation.pb.h"
#include "scheduler/scheduler_thread.h"
#include "scheduler/state_future.h"
#include "service/auth/admission.h"
#include "service/call_report.h"
#include "service/checkpointer.h"
#include "service/choice.h"
#include "service/environment.h"
#include "service/session_turn.h"

namespace reprise::service {

class GenerateCall final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                           private ChoiceOwner,
                           public std::enable_shared_from_this<GenerateCall> {
 public:
  // Takes care of itself: lives until gRPC is done with it and nobody else holds it. The request
  // comes unparsed, so that a malformed one is answered with a reason.
  static GenerateCall* Start(Environment* environment, grpc::CallbackServerContext* context,
                             const grpc::ByteBuffer* request);

  GenerateCall(Environment* environment, grpc::CallbackServerContext* context);

  // grpc::ServerWriteReactor
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  // ChoiceOwner
  bool MayGoOn() override;
  void OnStalled() override;
  void OnToken() override;
  void OnCheckpoint(Choice& choice, scheduler::Checkpoint checkpoint) override;
  void OnEnd(Choice& choice, scheduler::RequestResult result) override;

  // I/O threads.
  absl::Status Prepare();
  absl::Status Submit(std::vector<int32_t> prompt);
  void MakeChoices(const scheduler::Request& work);
  // Where the turn starts, or goes on from. The future, if not null, is still to be set.
  absl::StatusOr<std::shared_ptr<scheduler::StateFuture>> StartFrom(std::vector<int32_t> prompt,
                                                                    scheduler::Request* work);
  absl::Status GoOnFrom(const TurnProgress& progress, std::vector<int32_t>* prompt,
                        scheduler::Request* work);
  void StoreCheckpoint(SessionTurn::Standing standing);
  void Commit(Choice& choice, scheduler::RequestResult result);
  void CommitPartial(Choice& choice, scheduler::RequestResult result);
  void CommitBest();
  // Stores the turn, and says so in `finished`, which may be null.
  absl::Status StoreTurn(Choice& choice, scheduler::RequestResult& result, v1::Finished* finished);

  uint64_t ChooseSeed() const;
  bool ranks() const { return choices_.size() > 1 && request_.best_of() > 0; }
  v1::Finished MakeFinished(Choice& choice, const scheduler::RequestResult& result);
  // Takes the answer in among the best so far, or drops it.
  void Rank(Choice& choice, scheduler::RequestResult result) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The choice has ended; after the last one, the call. A failed one takes the others along.
  void CloseChoice(Choice& choice, const absl::Status& status,
                   std::optional<v1::Finished> finished);
  void CloseRanked(std::optional<v1::Finished> best);
  void CancelChoices(std::optional<scheduler::RequestId> first);
  // Ends the call with a failed status, or after what the choices have to say; the first end
  // counts.
  void End(absl::Status status);
  // Writes what is pending, or the end, if the stream is free. No lock is held while gRPC is
  // called.
  void Pump() ABSL_LOCKS_EXCLUDED(mutex_);
  // The next event of the choices, in turns.
  std::optional<v1::GenerateResponse> NextEvent() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool HasEvent() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  struct Ranked {
    Choice* choice;
    scheduler::RequestResult result;  // with a state for the best only
  };

  Environment* const environment_;
  grpc::CallbackServerContext* const context_;
  std::string tenant_;                  // of admission_, set before anybody else has the call
  CallReport report_;                   // belongs to whoever has the call
  std::shared_ptr<GenerateCall> self_;  // until OnDone
  Admission admission_;

  // Set by Prepare, read afterwards by whoever has the call.
  v1::GenerateRequest request_;
  std::optional<SessionTurn> turn_;
  ServedModel* model_ = nullptr;
  std::vector<int32_t> prompt_;  // what is fed in this try, kept for the session's commits
  int64_t prompt_tokens_ = 0;
  int64_t restored_tokens_ = 0;
  uint64_t seed_ = 0;
  std::vector<std::unique_ptr<Choice>> choices_;  // by number
  std::optional<Checkpointer> checkpointer_;      // with one choice only

  mutable absl::Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<scheduler::RequestId> running_ ABSL_GUARDED_BY(mutex_);  // of choice 0
  absl::Status doomed_ ABSL_GUARDED_BY(mutex_);  // why no commit can succeed
  int checkpoints_ ABSL_GUARDED_BY(mutex_) = 0;  // stored
  size_t open_choices_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t telling_choices_ ABSL_GUARDED_BY(mutex_) = 0;    // that have not said their last yet
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);          // of the first choice that failed
  std::vector<Ranked> ranked_ ABSL_GUARDED_BY(mutex_);    // best first, at most n
  int64_t discarded_tokens_ ABSL_GUARDED_BY(mutex_) = 0;  // of those that are not among them
  std::vector<Choice*> writers_ ABSL_GUARDED_BY(mutex_);  // whose events may be written
  size_t next_writer_ ABSL_GUARDED_BY(mutex_) = 0;
  Choice* writing_ ABSL_GUARDED_BY(mutex_) = nullptr;  // whose event is being written
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;        // nothing more can be written
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;        // somebody ends it
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;         // the end is known
  bool finishing_ ABSL_GUARDED_BY(mutex_) = false;     // and on its way to gRPC
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  grpc::ByteBuffer in_flight_;  // belongs to the write in progress
};

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_GENERATE_CALL_H_
