// One Generate call, from its request to its last message.
//
//   1. Start (gRPC's thread) hands the call to an I/O thread; nothing waits.
//   2. Prepare (I/O thread): check fields, begin the session's turn, find the model, encode the
//      prompt, submit to the scheduler; then read the session's state, while others are computed.
//   3. OnToken (scheduler's thread): tokens become text in a pending event; Pump writes it when the
//      stream is free. Tokens that pile up meanwhile share one event; too many pause the sequence.
//      OnCheckpoint, if asked for, hands a state to the checkpointer.
//   4. OnFinish (scheduler's thread): with a session, Commit on an I/O thread.
//   5. End: what is pending, then the Finished message or the failed status; OnDone.
// Cancel, deadline and a vanished client all come in as OnCancel, which ends step 3 within one
// step.
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
#include "service/environment.h"
#include "service/session_turn.h"
#include "service/token_stream.h"

namespace reprise::service {

class GenerateCall final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                           public scheduler::RequestObserver,
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

  // scheduler::RequestObserver
  bool Writable() override;
  Verdict OnToken(const kernels::SampledToken& token) override;
  void OnCheckpoint(scheduler::Checkpoint checkpoint) override;
  void OnFinish(scheduler::RequestResult result) override;

 private:
  // I/O threads.
  absl::Status Prepare();
  absl::Status Submit(std::vector<int32_t> prompt);
  // Where the turn starts, or goes on from. The future, if not null, is still to be set.
  absl::StatusOr<std::shared_ptr<scheduler::StateFuture>> StartFrom(std::vector<int32_t> prompt,
                                                                    scheduler::Request* work);
  void StoreCheckpoint(SessionTurn::Standing standing);
  void Commit(scheduler::RequestResult result);

  uint64_t ChooseSeed() const;
  v1::GenerateResponse MakeFinished(const scheduler::RequestResult& result);
  // Ends the call with a last message or a failed status; the first end counts.
  void End(absl::Status status, std::optional<v1::GenerateResponse> finished);
  // Writes what is pending, or the end, if the stream is free. No lock is held while gRPC is
  // called.
  void Pump() ABSL_LOCKS_EXCLUDED(mutex_);

  Environment* const environment_;
  grpc::CallbackServerContext* const context_;
  std::string tenant_;                  // of admission_, set before anybody else has the call
  CallReport report_;                   // belongs to whoever has the call
  std::shared_ptr<GenerateCall> self_;  // until OnDone
  Admission admission_;
  QuotaBook::Reservation room_;  // for what the turn stores

  // Set by Prepare, read afterwards by whoever has the call.
  v1::GenerateRequest request_;
  std::optional<SessionTurn> turn_;
  ServedModel* model_ = nullptr;
  std::vector<int32_t> prompt_;  // what is fed in this try, kept for the session's commits
  int64_t prompt_tokens_ = 0;
  int64_t restored_tokens_ = 0;
  uint64_t seed_ = 0;
  std::optional<TokenStream> stream_;  // scheduler's thread only, once submitted
  std::vector<int32_t> generated_;     // likewise; with checkpoints only
  std::optional<Checkpointer> checkpointer_;
  int64_t replayed_tokens_ = 0;

  mutable absl::Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<scheduler::RequestId> running_ ABSL_GUARDED_BY(mutex_);
  std::optional<v1::Tokens> replay_ ABSL_GUARDED_BY(mutex_);  // goes out first
  absl::Status doomed_ ABSL_GUARDED_BY(mutex_);               // why no commit can succeed
  int checkpoints_ ABSL_GUARDED_BY(mutex_) = 0;               // stored
  v1::Tokens pending_ ABSL_GUARDED_BY(mutex_);
  int pending_tokens_ ABSL_GUARDED_BY(mutex_) = 0;  // in pending_
  int written_tokens_ ABSL_GUARDED_BY(mutex_) = 0;  // in the write in progress
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;  // nothing more can be written
  bool paused_ ABSL_GUARDED_BY(mutex_) = false;  // the scheduler was told to wait
  absl::Time paused_since_ ABSL_GUARDED_BY(mutex_);
  bool stalled_ ABSL_GUARDED_BY(mutex_) = false;    // paused for too long: cancelled
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;     // somebody ends it
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;      // the end is known
  bool finishing_ ABSL_GUARDED_BY(mutex_) = false;  // and on its way to gRPC
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  std::optional<v1::GenerateResponse> finished_ ABSL_GUARDED_BY(mutex_);
  grpc::ByteBuffer in_flight_;  // belongs to the write in progress
};

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_GENERATE_CALL_H_
