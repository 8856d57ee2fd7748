// Thousands of random operations against a plain sequential model of what they should do.
#include <algorithm>
#include <cstdio>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "state_store/internal/cat.h"
#include "state_store/testing/store_contract.h"

namespace reprise::state_store {
namespace {

struct ModelSession {
  uint64_t version = 1;
  std::string head;
  std::set<std::string> retained;
  std::string origin;
  absl::Duration ttl = absl::InfiniteDuration();
  absl::Time expires = absl::InfiniteFuture();
  std::optional<std::pair<std::string, Session>> last_request;  // newest commit's id and answer

  bool Sees(const std::string& id) const {
    return !id.empty() && (id == head || id == origin || retained.count(id) != 0);
  }
};

class Model {
 public:
  using Key = std::pair<std::string, std::string>;  // tenant, session

  explicit Model(uint64_t seed) : random(seed) {}

  size_t Pick(size_t n) { return random() % n; }

  // What a call on this session must fail with before anything else is looked at.
  StoreError Find(const Key& key, absl::Time now) const {
    const auto it = sessions.find(key);
    if (it == sessions.end()) return StoreError::kSessionNotFound;
    return it->second.expires <= now ? StoreError::kSessionExpired : StoreError::kNone;
  }

  // One of the session's own, or a recent one of the tenant, or one that never was.
  std::string SomeSnapshot(const Key& key) {
    const auto it = sessions.find(key);
    if (it != sessions.end() && Pick(2) == 0) {
      std::vector<std::string> own(it->second.retained.begin(), it->second.retained.end());
      if (!it->second.origin.empty()) own.push_back(it->second.origin);
      if (!own.empty()) return own[Pick(own.size())];
    }
    const std::vector<std::string>& all = made[key.first];
    if (all.empty() || Pick(8) == 0) return "nothing";
    return all[all.size() - 1 - Pick(std::min<size_t>(all.size(), 12))];
  }

  // Expired ones too, until they are swept.
  size_t Sessions(const std::string& tenant) const {
    return std::count_if(sessions.begin(), sessions.end(),
                         [&](const auto& entry) { return entry.first.first == tenant; });
  }

  size_t LiveSnapshots(const std::string& tenant) const {
    std::set<std::string> live;
    for (const auto& [key, session] : sessions) {
      if (key.first != tenant) continue;
      live.insert(session.retained.begin(), session.retained.end());
      live.insert(session.head);
      live.insert(session.origin);
    }
    live.erase("");
    return live.size();
  }

  std::mt19937_64 random;
  std::map<Key, ModelSession> sessions;
  std::map<std::string, std::vector<std::string>> made;  // by tenant
  std::map<std::string, uint64_t> seeds;                 // by snapshot
};

StoreError ErrorOf(const absl::Status& status) { return GetStoreError(status); }

}  // namespace

TEST_P(StoreContract, AgreesWithASequentialModel) {
  int moved = 0, forked = 0, rewound = 0, deleted = 0, refused = 0;
  for (const uint64_t seed : {11, 12, 13}) {
    place_ = (store_.reset(), GetParam().make());
    Reopen();
    Model model(seed);
    for (int step = 0; step < 2000; ++step) {
      SCOPED_TRACE(Cat("seed ", seed, " step ", step));
      const Model::Key key{model.Pick(4) == 0 ? "u" : "t", Cat("s", model.Pick(9))};
      const auto& [tenant, id] = key;
      const StoreError found = model.Find(key, clock_.Now());
      const auto it = model.sessions.find(key);
      ModelSession* session = found == StoreError::kNone ? &it->second : nullptr;
      StoreError expected = found;
      absl::Status got;
      switch (model.Pick(12)) {
        case 0: {
          const absl::Duration ttl =
              model.Pick(2) == 0 ? absl::InfiniteDuration() : absl::Minutes(1 + model.Pick(90));
          expected = session != nullptr ? StoreError::kSessionExists : StoreError::kNone;
          got = store().CreateSession(tenant, {.id = id, .ttl = ttl}).status();
          if (got.ok()) {
            model.sessions[key] = ModelSession{};
            model.sessions[key].ttl = ttl;
            model.sessions[key].expires = clock_.Now() + ttl;
          }
          break;
        }
        case 1:
        case 2:
        case 3:
        case 4: {
          const uint64_t version =
              (session != nullptr ? session->version : 1) + (model.Pick(6) == 0 ? 1 : 0);
          const bool keep = model.Pick(4) == 0;
          const uint64_t content = model.Pick(40);
          const std::string request = model.Pick(3) == 0 ? Cat("r", step) : "";
          if (session != nullptr && version != session->version) {
            expected = StoreError::kVersionMismatch;
          }
          const auto result = store().PutAndCommit(
              tenant, id, version, MakeTestSnapshot(content),
              {.durability = model.Pick(8) == 0 ? Durability::kSync : Durability::kAsync,
               .keep = keep,
               .request_id = request});
          got = result.status();
          if (result.ok() && session != nullptr) {
            ++moved;
            EXPECT_EQ(result->version, ++session->version);
            session->head = result->head_snapshot_id;
            if (keep) session->retained.insert(session->head);
            session->expires = clock_.Now() + session->ttl;
            session->last_request.reset();
            if (!request.empty()) session->last_request = {request, *result};
            model.made[tenant].push_back(session->head);
            model.seeds[session->head] = content;
          }
          break;
        }
        case 5: {
          if (session == nullptr || !session->last_request.has_value()) continue;
          const auto& [request, answer] = *session->last_request;
          const auto result = store().PutAndCommit(tenant, id, answer.version - 1,
                                                   MakeTestSnapshot(0), {.request_id = request});
          got = result.status();
          if (result.ok()) {
            EXPECT_EQ(*result, answer);
          }
          break;
        }
        case 6: {
          const std::string to = Cat("s", model.Pick(9));
          const Model::Key target{tenant, to};
          const std::string from = model.Pick(2) == 0 ? "" : model.SomeSnapshot(key);
          if (session != nullptr) {
            if (from.empty() && session->head.empty()) {
              expected = StoreError::kNoHead;
            } else if (!from.empty() && !session->Sees(from)) {
              expected = StoreError::kSnapshotNotFound;
            } else if (model.Find(target, clock_.Now()) == StoreError::kNone) {
              expected = StoreError::kSessionExists;
            }
          }
          const auto result = store().Fork(tenant, {id, from}, {.id = to});
          got = result.status();
          if (result.ok() && session != nullptr) {
            ++forked;
            ModelSession child;
            child.head = child.origin = from.empty() ? session->head : from;
            EXPECT_EQ(result->head_snapshot_id, child.head);
            model.sessions[target] = child;
          }
          break;
        }
        case 7: {
          const std::string to = model.SomeSnapshot(key);
          if (session != nullptr && !session->Sees(to)) expected = StoreError::kSnapshotNotFound;
          const uint64_t version = session != nullptr ? session->version : 1;
          const auto result = store().Rewind(tenant, id, to, version, "");
          got = result.status();
          if (result.ok() && session != nullptr) {
            ++rewound;
            EXPECT_EQ(result->version, ++session->version);
            session->head = to;
            session->expires = clock_.Now() + session->ttl;
          }
          break;
        }
        case 8: {
          if (session != nullptr && session->head.empty()) expected = StoreError::kNoHead;
          got = store().CreateSnapshot(tenant, id).status();
          if (got.ok() && session != nullptr) session->retained.insert(session->head);
          break;
        }
        case 9: {
          const std::string victim = model.SomeSnapshot(key);
          if (session != nullptr) {
            if (!session->Sees(victim)) {
              expected = StoreError::kSnapshotNotFound;
            } else if (victim == session->head) {
              expected = StoreError::kSnapshotIsHead;
            }
          }
          got = store().DeleteSnapshot(tenant, id, victim);
          if (got.ok() && session != nullptr) {
            ++deleted;
            session->retained.erase(victim);
            if (session->origin == victim) session->origin.clear();
          }
          break;
        }
        case 10: {
          if (model.Pick(3) != 0) continue;
          // Deleting also works on a session that has expired but was not swept yet.
          if (expected == StoreError::kSessionExpired) expected = StoreError::kNone;
          got = store().DeleteSession(tenant, id);
          if (got.ok()) model.sessions.erase(key);
          break;
        }
        default: {
          if (model.Pick(3) != 0) continue;
          clock_.Advance(absl::Minutes(model.Pick(20)));
          int64_t expired = 0;
          if (model.Pick(2) == 0) {
            for (auto s = model.sessions.begin(); s != model.sessions.end();) {
              const bool gone = s->second.expires <= clock_.Now();
              expired += gone;
              s = gone ? model.sessions.erase(s) : std::next(s);
            }
            EXPECT_EQ(*store().SweepExpired(clock_.Now()), expired);
          }
          if (GetParam().lasting && model.Pick(6) == 0) Reopen();
          continue;
        }
      }
      ASSERT_EQ(ErrorOf(got), expected) << got;
      ASSERT_EQ(got.ok(), expected == StoreError::kNone) << got;
      refused += !got.ok();

      const auto now = model.sessions.find(key);
      if (model.Find(key, clock_.Now()) == StoreError::kNone) {
        const auto read = store().GetSession(tenant, id);
        ASSERT_TRUE(read.ok()) << read.status();
        ASSERT_EQ(read->version, now->second.version);
        ASSERT_EQ(read->head_snapshot_id, now->second.head);
        ASSERT_EQ(read->expires, now->second.expires);
        if (!read->head_snapshot_id.empty()) {
          ExpectHead(id, model.seeds[now->second.head], tenant);
        }
      }
      if (step % 10 == 0) {
        for (const std::string t : {"t", "u"}) {
          const StoreStats stats = StatsOf(t);
          ASSERT_EQ(stats.snapshots, model.LiveSnapshots(t));
          ASSERT_EQ(stats.sessions, model.Sessions(t));
          const StoreUsage usage = store().Usage(t).value();
          ASSERT_EQ(usage, (StoreUsage{stats.sessions, stats.stored_bytes}))
              << usage.sessions << " sessions of " << stats.sessions << ", " << usage.stored_bytes
              << " bytes of " << stats.stored_bytes;
        }
        ASSERT_EQ(store().CheckIntegrity(), absl::OkStatus());
      }
    }
    // Every snapshot that some session sees is there, with the right bytes.
    for (const auto& [key, session] : model.sessions) {
      if (session.expires <= clock_.Now()) continue;
      std::set<std::string> ids = session.retained;
      ids.insert(session.head);
      ids.insert(session.origin);
      ids.erase("");
      EXPECT_EQ(store().ListSnapshots(key.first, key.second, {})->snapshots.size(), ids.size());
      for (const std::string& snapshot : ids) {
        const auto read = store().ReadSnapshot(key.first, key.second, snapshot);
        ASSERT_TRUE(read.ok()) << read.status();
        EXPECT_TRUE(SameState(MakeTestSnapshot(model.seeds[snapshot]), *read));
      }
      ASSERT_EQ(store().DeleteSession(key.first, key.second), absl::OkStatus());
    }
    ASSERT_TRUE(store().SweepExpired(clock_.Now()).ok());
    EXPECT_EQ(StatsOf("t"), StoreStats{});
    EXPECT_EQ(StatsOf("u"), StoreStats{});
    EXPECT_EQ(store().Usage("t").value(), StoreUsage{});
  }
  // The walk must not have been one of refusals only.
  std::printf("%d commits, %d forks, %d rewinds, %d deleted snapshots, %d refusals\n", moved,
              forked, rewound, deleted, refused);
  EXPECT_GT(moved, 500);
  EXPECT_GT(forked, 20);
  EXPECT_GT(rewound, 50);
  EXPECT_GT(deleted, 20);
  EXPECT_GT(refused, 200);
}

}  // namespace reprise::state_store
