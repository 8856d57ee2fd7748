#include "tests/state_store/redis/history.h"

#include <algorithm>
#include <optional>
#include <set>
#include <sstream>

namespace reprise::state_store {
namespace {

using Event = HistoryEvent;

bool Moves(const Event& e) { return e.op == Event::kCommit || e.op == Event::kRewind; }
bool Makes(const Event& e) { return e.op == Event::kCreate || e.op == Event::kFork; }
bool MayHaveHappened(const Event& e) {
  return e.outcome == Event::kOk || e.outcome == Event::kUnknown;
}

// All that concerns one session.
struct Story {
  std::vector<const Event*> makers, movers, lookers, deleters;
};

class Checker {
 public:
  explicit Checker(const std::vector<Event>& events) {
    for (const Event& e : events) {
      Story& story = stories_[e.session];
      if (Makes(e)) story.makers.push_back(&e);
      if (Moves(e)) story.movers.push_back(&e);
      if (e.op == Event::kGet || e.op == Event::kRead) story.lookers.push_back(&e);
      if (e.op == Event::kDelete) story.deleters.push_back(&e);
      if (e.outcome == Event::kWrong) Complain(e, "was answered what no store may answer");
    }
  }

  std::vector<std::string> Run() {
    for (const auto& [id, story] : stories_) CheckStory(story);
    return std::move(problems_);
  }

 private:
  void Complain(const Event& e, const std::string& problem) {
    std::string line = e.ToLine();
    line.pop_back();
    problems_.push_back("[" + line + "] " + problem);
  }

  // Who may have brought the session to `version`, in the state that was told.
  bool Explained(const Story& story, uint64_t version, uint64_t state, int64_t before) const {
    if (version == 1) {
      for (const Event* e : story.makers) {
        if (!MayHaveHappened(*e) || e->begin > before) continue;
        if (e->op == Event::kCreate && state == Event::kNoState) return true;
        if (e->op != Event::kFork) continue;
        if (e->outcome == Event::kOk ? e->told_state == state : WasEver(e->source, state))
          return true;
      }
      return false;
    }
    for (const Event* e : story.movers) {
      if (MayHaveHappened(*e) && e->expected + 1 == version && e->state == state &&
          e->begin <= before) {
        return true;
      }
    }
    return false;
  }

  bool WasEver(const std::string& session, uint64_t state) const {
    const auto it = stories_.find(session);
    if (it == stories_.end()) return false;
    for (const Event* e : it->second.movers) {
      if (MayHaveHappened(*e) && e->state == state) return true;
    }
    for (const Event* e : it->second.makers) {
      if (!MayHaveHappened(*e)) continue;
      if (e->outcome == Event::kOk ? e->told_state == state
                                   : e->op == Event::kFork && WasEver(e->source, state)) {
        return true;
      }
    }
    return false;
  }

  void CheckStory(const Story& story) {
    CheckMoves(story);
    CheckOrder(story);
    CheckEnd(story);
    for (const Event* e : story.makers) {
      if (e->outcome != Event::kOk) continue;
      if (e->version != 1) Complain(*e, "made a session that is not at version 1");
      if (e->op == Event::kFork && !WasEver(e->source, e->told_state)) {
        Complain(*e, "has a state that its source never had");
      }
    }
  }

  void CheckMoves(const Story& story) {
    std::map<uint64_t, const Event*> acknowledged;  // by the version that was made
    for (const Event* e : story.movers) {
      if (e->outcome == Event::kOk) {
        if (e->version != e->expected + 1) Complain(*e, "moved by more than one step");
        if (e->told_state != e->state) Complain(*e, "was told another state than its own");
        if (!acknowledged.emplace(e->version, e).second) {
          Complain(*e, "made a version that another had made");
        }
      }
      if (e->outcome == Event::kRefused) {
        // Somebody else must have been there first.
        const bool other =
            std::any_of(story.movers.begin(), story.movers.end(), [&](const Event* o) {
              return o != e && MayHaveHappened(*o) && o->expected >= e->expected &&
                     o->begin <= e->end;
            });
        if (!other) Complain(*e, "was aborted, and nobody had moved the session");
      }
    }
    // Each version follows from the one before.
    if (!acknowledged.empty()) {
      for (uint64_t v = 2; v <= acknowledged.rbegin()->first; ++v) {
        if (acknowledged.count(v) != 0) continue;
        const bool any = std::any_of(story.movers.begin(), story.movers.end(), [&](const Event* e) {
          return e->outcome == Event::kUnknown && e->expected + 1 == v;
        });
        if (!any) Complain(*acknowledged.rbegin()->second, "skips a version that nobody made");
      }
    }
    for (const Event* e : story.lookers) {
      if (e->outcome != Event::kOk) continue;
      const auto made = acknowledged.find(e->version);
      if (made != acknowledged.end()
              ? made->second->state != e->told_state || made->second->begin > e->end
              : !Explained(story, e->version, e->told_state, e->end)) {
        Complain(*e, "saw a state that does not belong to its version");
      }
    }
  }

  // Whoever begins after another has ended sees no less.
  void CheckOrder(const Story& story) {
    std::vector<const Event*> told;
    for (const auto* list : {&story.makers, &story.movers, &story.lookers}) {
      for (const Event* e : *list) {
        if (e->outcome == Event::kOk) told.push_back(e);
      }
    }
    std::vector<const Event*> by_end = told;
    std::sort(told.begin(), told.end(), [](auto* a, auto* b) { return a->begin < b->begin; });
    std::sort(by_end.begin(), by_end.end(), [](auto* a, auto* b) { return a->end < b->end; });
    uint64_t least = 0;
    size_t ended = 0;
    for (const Event* e : told) {
      for (; ended < by_end.size() && by_end[ended]->end < e->begin; ++ended) {
        least = std::max(least, by_end[ended]->version);
      }
      if (e->version < least)
        Complain(*e,
                 "saw version " + std::to_string(e->version) + " after " + std::to_string(least));
    }
  }

  // Deleted sessions do not come back, others do not vanish.
  void CheckEnd(const Story& story) {
    std::optional<int64_t> deleted;  // the first acknowledgement
    int64_t may_be_deleted = INT64_MAX, made = INT64_MAX;
    for (const Event* e : story.deleters) {
      if (e->outcome == Event::kOk) deleted = std::min(deleted.value_or(e->end), e->end);
      if (MayHaveHappened(*e)) may_be_deleted = std::min(may_be_deleted, e->begin);
    }
    for (const Event* e : story.makers) {
      if (e->outcome == Event::kOk) made = std::min(made, e->end);
    }
    for (const auto* list : {&story.movers, &story.lookers}) {
      for (const Event* e : *list) {
        if (e->outcome == Event::kOk && deleted.has_value() && e->begin > *deleted) {
          Complain(*e, "found a session that had been deleted");
        }
        if (e->outcome == Event::kNotFound && e->begin > made && e->end < may_be_deleted) {
          Complain(*e, "missed a session that was there");
        }
      }
    }
  }

  std::map<std::string, Story> stories_;
  std::vector<std::string> problems_;
};

}  // namespace

std::string HistoryEvent::ToLine() const {
  std::ostringstream line;
  line << static_cast<char>(op) << ' ' << session << ' ' << source << ' ' << expected << ' '
       << state << ' ' << begin << ' ' << end << ' ' << static_cast<char>(outcome) << ' ' << version
       << ' ' << told_state << '\n';
  return line.str();
}

HistoryEvent HistoryEvent::FromLine(const std::string& line) {
  std::istringstream in(line);
  HistoryEvent e;
  char op = 0, outcome = 0;
  in >> op >> e.session >> e.source >> e.expected >> e.state >> e.begin >> e.end >> outcome >>
      e.version >> e.told_state;
  e.op = static_cast<Op>(op);
  e.outcome = static_cast<Outcome>(outcome);
  return e;
}

std::vector<std::string> CheckHistory(const std::vector<HistoryEvent>& events) {
  return Checker(events).Run();
}

}  // namespace reprise::state_store
