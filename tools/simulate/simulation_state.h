// The inside of Simulate: one queue of events over all replicas, in the order of simulated time.
#ifndef REPRISE_TOOLS_SIMULATE_SIMULATION_STATE_H_
#define REPRISE_TOOLS_SIMULATE_SIMULATION_STATE_H_

#include <cstdint>
#include <memory>
#include <queue>
#include <string>
#include <vector>

#include "scheduler/scheduler.h"
#include "tools/simulate/hash_ring.h"
#include "tools/simulate/host_tier.h"
#include "tools/simulate/simulation.h"
#include "tools/simulate/stand_in_model.h"
#include "tools/simulate/surrogate.h"

namespace reprise::simulate {

// A step runs at once when its time has come, and moves the clock to its end; what it says then
// takes effect at that time. In between, other replicas' events come, with the clock set back to
// theirs: a replica's own clock readings never go back by more than the step that it is in.
class Simulation {
 public:
  Simulation(ScriptSource* source, const SimulationOptions& options);
  ~Simulation();

  absl::Status Init();
  absl::Status Run();
  // After Run; ends what still runs.
  absl::StatusOr<Report> Finish();

 private:
  enum class EventKind : uint8_t { kScript, kTurn, kSubmit, kStep, kState, kServed, kMember };
  struct Event {
    SimTime time;
    uint64_t order;  // of creation: equal times keep it
    uint32_t a, b;
    EventKind kind;
    bool operator>(const Event& other) const {
      return time != other.time ? time > other.time : order > other.order;
    }
  };

  // Where the head of a session is.
  struct SessionPlace {
    int32_t replica = -1;
    uint64_t entry = 0;     // in that replica's host tier
    SimTime committed = 0;  // when the store has it
  };
  struct LiveScript {
    Script script;
    std::vector<SessionPlace> sessions;
    std::vector<int64_t> end_tokens;               // of each turn's sequence; -1 = not ended
    std::vector<int32_t> first_child, next_child;  // turns by the turn that they wait for
    int32_t open = 0;                              // turns that have not ended
  };
  // A turn on its way to its end.
  struct Live {
    uint32_t script = 0;
    int32_t turn = 0;
    int32_t replica = -1;
    uint32_t epoch = 0;     // counts uses of this place and attempts: old events are void
    int32_t attempts = 0;   // refused ones
    int32_t under_way = 0;  // at its replica when it was submitted
    int32_t delivered = 0;  // tokens that the client has
    int32_t drawn = 0;      // and the turn, in this attempt or in the state it began with
    int32_t saved_drawn = 0;
    int64_t saved_tokens = 0;  // > 0: a drain has handed over a state of so many
    bool used = false, measured = false, restored = false;
    SimTime arrival = 0, submitted = 0, ready = 0;  // ready: its state is at the replica
    SimTime first_token = 0, last_token = 0;        // of this attempt; that the client has
    SimTime end = 0;                                // at a replica without a scheduler
    std::shared_ptr<scheduler::StateFuture> source;
  };
  // Charges for the states that a step has parked; imports show in the model.
  class Copies;
  struct Replica {
    explicit Replica(int64_t tier_entries);
    Replica(Replica&&) noexcept;
    ~Replica();
    HostTier tier;
    bool real = false, step_due = false;
    SimTime step_at = 0;  // if one is due
    std::unique_ptr<StandInModel> model;
    std::unique_ptr<Copies> copies;
    std::unique_ptr<scheduler::Scheduler> scheduler;
    int64_t kept = 0;  // states that its scheduler has given to the prefix cache
    int64_t turns = 0;
    double ttft_sum = 0, itl_sum = 0;
    int64_t ttfts = 0, itls = 0;
  };
  class Observer;

  void Push(SimTime time, EventKind kind, uint32_t a, uint32_t b = 0) {
    events_.push({time, next_order_++, a, b, kind});
  }
  SimTime now() const { return clock_.now(); }

  // simulation.cc
  absl::Status CheckOptions() const;
  absl::Status StartScheduler(Replica& replica);
  void StopScheduler(Replica& replica);
  void Handle(const Event& event);
  void PullScript();
  void BeginScript();
  void Step(uint32_t replica);
  void Wake(uint32_t replica);
  void Change(const MembershipEvent& event);
  void MoveServed(uint32_t replica, SimTime after);
  absl::Status CheckEnd() const;

  // simulation_turns.cc
  void Arrive(uint32_t script, int32_t turn);
  void Submit(uint32_t live);
  int Choose(const Live& live) const;
  void SubmitToScheduler(uint32_t live, int64_t state_tokens);
  void SubmitToSurrogate(uint32_t live);
  // When the state is at the replica: now if it is in its host tier.
  SimTime FindState(const Live& live, int replica);
  void AppendPrompt(const LiveScript& script, int32_t turn, std::vector<int32_t>* tokens) const;
  void AppendHistory(const LiveScript& script, int32_t turn, std::vector<int32_t>* tokens) const;
  void OnToken(uint32_t live);
  void OnFinish(uint32_t live, const scheduler::RequestResult& result);
  void Served(uint32_t live);
  void Refused(uint32_t live, SimTime delay);
  void Again(uint32_t live, SimTime delay);
  void Leave(Live& live);
  void Complete(uint32_t live);
  void Measure(const Live& live, const Turn& turn);
  void Drop(uint32_t live, int64_t* counter);
  void EndTurn(uint32_t script);
  void Fail(uint32_t live, const absl::Status& status);
  // What the turn takes on an idle device.
  struct Alone {
    double prefill, decode;  // seconds
  };
  Alone AloneSeconds(const LiveScript& script, const Turn& turn) const;
  // Tokens of the state that a turn goes on from, 0 for none; of the conversation before it.
  int64_t StateTokens(const LiveScript& script, const Turn& turn) const;
  int64_t HistoryTokens(const LiveScript& script, const Turn& turn) const;
  LatencyStats& TenantStats(uint32_t tenant);

  ScriptSource* const source_;
  const SimulationOptions options_;
  SimClock clock_;
  std::unique_ptr<kernels::ThreadPool> pool_;  // of one thread, for copies of states
  HashRing ring_;
  Surrogate surrogate_;
  std::vector<Replica> replicas_;
  std::vector<int32_t> loads_;  // turns under way, by replica
  int64_t total_load_ = 0;      // of those on the ring

  std::priority_queue<Event, std::vector<Event>, std::greater<Event>> events_;
  uint64_t next_order_ = 0;
  std::vector<LiveScript> scripts_;
  std::vector<uint32_t> free_scripts_;
  std::vector<Live> lives_;
  std::vector<uint32_t> free_lives_;
  Script next_script_;
  bool ending_ = false;
  absl::Status broken_;
  SimTime last_end_ = 0;
  Report report_;
};

}  // namespace reprise::simulate

#endif  // REPRISE_TOOLS_SIMULATE_SIMULATION_STATE_H_
