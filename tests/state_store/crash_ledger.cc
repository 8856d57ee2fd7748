#include "tests/state_store/crash_ledger.h"

#include <gtest/gtest.h>

#include <random>
#include <sstream>
#include <vector>

#include "state_store/testing/builders.h"

namespace reprise::state_store {

std::string CrashEvent::ToLine() const {
  std::ostringstream line;
  line << static_cast<char>(kind) << ' ' << session << ' ' << version << ' ' << seed << ' ' << sync
       << '\n';
  return line.str();
}

CrashEvent CrashEvent::FromLine(const std::string& line) {
  std::istringstream in(line);
  CrashEvent event;
  char kind;
  in >> kind >> event.session >> event.version >> event.seed >> event.sync;
  event.kind = static_cast<Kind>(kind);
  return event;
}

void RunCrashWorkload(SessionStore& store, uint64_t seed, int steps,
                      const std::function<void(const CrashEvent&)>& emit) {
  std::mt19937_64 random(seed);
  struct Live {
    uint64_t version = 0;
    uint64_t state = CrashEvent::kNoState;
    std::string kept;  // a retained snapshot to rewind to
    uint64_t kept_state = 0;
  };
  std::map<std::string, Live> live;
  int made = 0;
  for (int step = 0; step < steps; ++step) {
    std::vector<std::string> ids;
    for (const auto& [id, session] : live) ids.push_back(id);
    const auto pick = [&] { return ids[random() % ids.size()]; };
    const uint64_t dice = ids.empty() ? 0 : random() % 12;
    const bool sync = random() % 2 == 0;
    const std::string fresh = "s" + std::to_string(made);
    if (dice == 0) {
      ++made;
      emit({CrashEvent::kTry, fresh, 1, CrashEvent::kNoState, false});
      if (!store.CreateSession("t", {.id = fresh}).ok()) continue;
      emit({CrashEvent::kAck, fresh, 1, CrashEvent::kNoState, false});
      live[fresh] = {1, CrashEvent::kNoState, "", 0};
    } else if (dice == 1) {
      const std::string source_id = pick();
      const Live source = live[source_id];
      if (source.state == CrashEvent::kNoState) continue;
      ++made;
      emit({CrashEvent::kTry, fresh, 1, source.state, false});
      if (!store.Fork("t", {source_id}, {.id = fresh}).ok()) continue;
      emit({CrashEvent::kAck, fresh, 1, source.state, false});
      live[fresh] = {1, source.state, "", 0};
    } else if (dice == 2 && ids.size() > 2) {
      const std::string id = pick();
      emit({CrashEvent::kTryDelete, id, 0, 0, false});
      if (!store.DeleteSession("t", id).ok()) continue;
      emit({CrashEvent::kAckDelete, id, 0, 0, false});
      live.erase(id);
    } else if (dice == 3) {
      const std::string id = pick();
      Live& session = live[id];
      if (session.kept.empty()) continue;
      emit({CrashEvent::kTry, id, session.version + 1, session.kept_state, false});
      const auto moved = store.Rewind("t", id, session.kept, session.version, "");
      if (!moved.ok()) continue;
      emit({CrashEvent::kAck, id, moved->version, session.kept_state, false});
      session.version = moved->version;
      session.state = session.kept_state;
    } else {
      const std::string id = pick();
      Live& session = live[id];
      const uint64_t state = seed * 1000 + step;
      const bool keep = random() % 4 == 0;
      emit({CrashEvent::kTry, id, session.version + 1, state, sync});
      const auto moved = store.PutAndCommit(
          "t", id, session.version, MakeTestSnapshot(state, 900),
          {.durability = sync ? Durability::kSync : Durability::kAsync, .keep = keep});
      if (!moved.ok()) continue;
      emit({CrashEvent::kAck, id, moved->version, state, sync});
      session.version = moved->version;
      session.state = state;
      if (keep) {
        session.kept = moved->head_snapshot_id;
        session.kept_state = state;
      }
    }
  }
}

void CrashLedger::Record(const CrashEvent& event) {
  switch (event.kind) {
    case CrashEvent::kTry:
      tried_[event.session][event.version].insert(event.seed);
      return;
    case CrashEvent::kTryDelete:
      delete_tried_.insert(event.session);
      return;
    case CrashEvent::kAckDelete:
      latest_[event.session].deleted = true;
      break;
    case CrashEvent::kAck:
      EXPECT_EQ(acked_[event.session].count(event.version), 0u) << "version moved twice";
      acked_[event.session][event.version] = event.seed;
      latest_[event.session].version = event.version;
      break;
  }
  ++acks_;
  // A synchronous commit makes everything before it last.
  if (all_lasting_ || event.sync) lasting_ = latest_;
}

void CrashLedger::Check(SessionStore& store) const {
  EXPECT_EQ(store.CheckIntegrity(), absl::OkStatus());
  for (const auto& [id, versions] : tried_) {
    SCOPED_TRACE("session " + id);
    const auto it = lasting_.find(id);
    const Known known = it == lasting_.end() ? Known{} : it->second;
    const auto session = store.GetSession("t", id);
    if (!session.ok()) {
      EXPECT_EQ(GetStoreError(session.status()), StoreError::kSessionNotFound);
      EXPECT_TRUE(known.version == 0 || delete_tried_.count(id) != 0) << "session is lost";
      continue;
    }
    EXPECT_FALSE(known.deleted) << "deleted session is back";
    EXPECT_GE(session->version, known.version) << "acknowledged commit is lost";
    const auto tried = versions.find(session->version);
    ASSERT_NE(tried, versions.end()) << "nobody moved it to " << session->version;
    const auto snapshot = store.ReadSnapshot("t", id, "");
    if (GetStoreError(snapshot.status()) == StoreError::kNoHead) {
      EXPECT_EQ(tried->second.count(CrashEvent::kNoState), 1u) << "head is lost";
      continue;
    }
    ASSERT_TRUE(snapshot.ok()) << snapshot.status();
    const uint64_t seed = snapshot->manifest.position - 1;
    EXPECT_EQ(tried->second.count(seed), 1u) << "version holds another commit's state";
    const auto acked = acked_.find(id);
    if (acked != acked_.end() && acked->second.count(session->version) != 0) {
      EXPECT_EQ(acked->second.at(session->version), seed);
    }
    EXPECT_TRUE(SameState(MakeTestSnapshot(seed, 900), *snapshot));
  }
}

}  // namespace reprise::state_store
