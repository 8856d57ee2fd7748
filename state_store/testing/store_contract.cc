#include "state_store/testing/store_contract.h"

#include <set>
#include <utility>
#include <vector>

#include "state_store/internal/cat.h"

namespace reprise::state_store {

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(StoreContract);

void StoreContract::SetUp() {
  options_.clock = clock_.AsFunction();
  options_.chunk_bytes = 512;
  options_.page_token_key = "key of this test";
  place_ = GetParam().make();
  Reopen();
}

void StoreContract::TearDown() {
  if (store_ == nullptr) return;
  EXPECT_EQ(store_->CheckIntegrity(), absl::OkStatus());
}

void StoreContract::Reopen() {
  store_.reset();
  auto opened = place_->Open(options_);
  ASSERT_TRUE(opened.ok()) << opened.status();
  store_ = *std::move(opened);
}

Session StoreContract::Create(const std::string& id, const std::string& tenant) {
  const auto session = store().CreateSession(tenant, {.id = id});
  EXPECT_TRUE(session.ok()) << session.status();
  return session.value_or(Session{});
}

Session StoreContract::Commit(const Session& session, uint64_t seed, const CommitOptions& options) {
  const auto moved = store().PutAndCommit(session.tenant, session.id, session.version,
                                          MakeTestSnapshot(seed), options);
  EXPECT_TRUE(moved.ok()) << moved.status();
  return moved.value_or(Session{});
}

void StoreContract::ExpectHead(const std::string& session_id, uint64_t seed,
                               const std::string& tenant) {
  const auto snapshot = store().ReadSnapshot(tenant, session_id, "");
  ASSERT_TRUE(snapshot.ok()) << snapshot.status();
  EXPECT_TRUE(SameState(MakeTestSnapshot(seed), *snapshot)) << "head is not state " << seed;
}

StoreStats StoreContract::StatsOf(const std::string& tenant) {
  const auto stats = store().Stats(tenant);
  EXPECT_TRUE(stats.ok()) << stats.status();
  return stats.value_or(StoreStats{});
}

std::string StoreContract::Export(const std::string& session_id, const std::string& snapshot_id) {
  StringSink sink;
  EXPECT_EQ(store().ExportSnapshot("t", session_id, snapshot_id, sink), absl::OkStatus());
  return sink.bytes();
}

TEST_P(StoreContract, NewSessionIsEmptyAndAtVersionOne) {
  const auto made =
      store().CreateSession("t", {.id = "chat-1", .ttl = absl::Hours(1), .labels = {{"a", "b"}}});
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->version, 1u);
  EXPECT_EQ(made->head_snapshot_id, "");
  EXPECT_EQ(made->created, clock_.Now());
  EXPECT_EQ(made->expires, clock_.Now() + absl::Hours(1));
  EXPECT_EQ(made->labels, (Labels{{"a", "b"}}));
  EXPECT_EQ(*store().GetSession("t", "chat-1"), *made);
  EXPECT_STORE_ERROR(store().ReadSnapshot("t", "chat-1", ""), kNoHead);
  EXPECT_STORE_ERROR(store().CreateSnapshot("t", "chat-1"), kNoHead);
  EXPECT_STORE_ERROR(store().Fork("t", {"chat-1"}, {}), kNoHead);
}

TEST_P(StoreContract, SessionIdsAreChecked) {
  for (const std::string& bad : {std::string("-a"), std::string("a-"), std::string("A"),
                                 std::string("a_b"), std::string(64, 'a'), std::string("a/b")}) {
    EXPECT_STORE_ERROR(store().CreateSession("t", {.id = bad}), kInvalidArgument);
  }
  for (const std::string& good : {std::string("a"), std::string("0-9"), std::string(63, 'a')}) {
    EXPECT_TRUE(store().CreateSession("t", {.id = good}).ok()) << good;
    EXPECT_STORE_ERROR(store().CreateSession("t", {.id = good}), kSessionExists);
  }
  const auto made_up = store().CreateSession("t", {});
  ASSERT_TRUE(made_up.ok());
  EXPECT_TRUE(IsValidSessionId(made_up->id));
  EXPECT_STORE_ERROR(store().CreateSession("", {}), kInvalidArgument);
  EXPECT_STORE_ERROR(store().CreateSession("t", {.ttl = absl::ZeroDuration()}), kInvalidArgument);
  EXPECT_STORE_ERROR(store().CreateSession("t", {.labels = {{"a", "\xff"}}}), kInvalidArgument);
}

TEST_P(StoreContract, CommitMovesHeadAndVersion) {
  Session session = Create("s");
  session = Commit(session, 5);
  EXPECT_EQ(session.version, 2u);
  EXPECT_EQ(session.position, 6u);
  EXPECT_EQ(session.token_count, 7u);
  EXPECT_EQ(session.model_id, "test-model");
  ExpectHead("s", 5);
  const std::string first = session.head_snapshot_id;
  session = Commit(session, 6, {.durability = Durability::kSync});
  EXPECT_EQ(session.version, 3u);
  ExpectHead("s", 6);
  const auto head = store().GetSnapshot("t", "s", "");
  ASSERT_TRUE(head.ok());
  EXPECT_EQ(head->manifest.parent_snapshot_id, first);
  EXPECT_EQ(head->manifest.tenant, "t");
  EXPECT_TRUE(head->is_head);
  EXPECT_FALSE(head->retained);
  EXPECT_EQ(*store().GetSession("t", "s"), session);
}

TEST_P(StoreContract, EmptyPartsAndOddSizesComeBack) {
  Session session = Create("s");
  for (const size_t size : {0, 1, 511, 512, 513, 1024, 5000}) {
    const Snapshot snapshot = MakeTestSnapshot(1, size);
    const auto moved = store().PutAndCommit("t", "s", session.version, snapshot, {});
    ASSERT_TRUE(moved.ok()) << moved.status();
    session = *moved;
    const auto read = store().ReadSnapshot("t", "s", "");
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_TRUE(SameState(snapshot, *read)) << size;
  }
}

TEST_P(StoreContract, WrongVersionIsAbortedAndLosesNothing) {
  Session session = Commit(Create("s"), 1);
  const StoreStats before = StatsOf();
  for (const uint64_t version : {uint64_t{0}, uint64_t{1}, uint64_t{3}, UINT64_MAX}) {
    EXPECT_STORE_ERROR(store().PutAndCommit("t", "s", version, MakeTestSnapshot(2), {}),
                       kVersionMismatch);
    EXPECT_STORE_ERROR(store().Rewind("t", "s", session.head_snapshot_id, version, ""),
                       kVersionMismatch);
  }
  EXPECT_EQ(*store().GetSession("t", "s"), session);
  EXPECT_EQ(StatsOf(), before);
  ExpectHead("s", 1);
}

TEST_P(StoreContract, BadSnapshotsAreRefused) {
  const Session session = Create("s");
  const auto refused = [&](auto change) {
    Snapshot snapshot = MakeTestSnapshot(1);
    change(snapshot);
    return store().PutAndCommit("t", "s", session.version, snapshot, {});
  };
  EXPECT_STORE_ERROR(refused([](Snapshot& s) { s.payloads.pop_back(); }), kInvalidArgument);
  EXPECT_STORE_ERROR(refused([](Snapshot& s) { s.payloads[0] += 'x'; }), kInvalidArgument);
  EXPECT_STORE_ERROR(refused([](Snapshot& s) { s.manifest.model_id = ""; }), kInvalidArgument);
  EXPECT_STORE_ERROR(refused([](Snapshot& s) { s.manifest.position = 100; }), kInvalidArgument);
  EXPECT_STORE_ERROR(
      refused([](Snapshot& s) { s.manifest.parts[1].name = s.manifest.parts[0].name; }),
      kInvalidArgument);
  EXPECT_STORE_ERROR(
      refused([](Snapshot& s) { s.manifest.legs["x"] = std::string(kMaxLegBytes + 1, 'x'); }),
      kInvalidArgument);
  EXPECT_EQ(store().GetSession("t", "s")->version, 1u);
  EXPECT_EQ(StatsOf().chunks, 0u);
}

TEST_P(StoreContract, SessionKeepsItsModel) {
  const Session session = Commit(Create("s"), 1);
  Snapshot other = MakeTestSnapshot(2);
  other.manifest.model_id = "other";
  EXPECT_STORE_ERROR(store().PutAndCommit("t", "s", session.version, other, {}), kModelMismatch);
  EXPECT_STORE_ERROR(store().Fork("t", {"s"}, {.model_id = "other"}), kModelMismatch);
}

TEST_P(StoreContract, RepeatedRequestsGetTheFirstAnswer) {
  const NewSessionOptions create{.id = "s", .request_id = "r1"};
  const auto first = store().CreateSession("t", create);
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(*store().CreateSession("t", create), *first);
  EXPECT_STORE_ERROR(store().CreateSession("t", {.id = "other", .request_id = "r1"}),
                     kRequestIdReused);
  const auto unnamed = store().CreateSession("t", {.request_id = "r2"});
  EXPECT_EQ(store().CreateSession("t", {.request_id = "r2"})->id, unnamed->id);

  const CommitOptions commit{.request_id = "c1"};
  const Session moved = Commit(*first, 1, commit);
  EXPECT_EQ(Commit(*first, 1, commit), moved);
  const Session further = Commit(moved, 2);
  EXPECT_EQ(Commit(*first, 1, commit), moved) << "also after others have moved it on";
  EXPECT_EQ(*store().GetSession("t", "s"), further);
  ExpectHead("s", 2);
  EXPECT_STORE_ERROR(store().PutAndCommit("t", "s", 2, MakeTestSnapshot(1), commit),
                     kRequestIdReused);

  const auto fork = store().Fork("t", {"s"}, {.request_id = "r1"});
  ASSERT_TRUE(fork.ok()) << "another kind of request is another request: " << fork.status();
  EXPECT_EQ(*store().Fork("t", {"s"}, {.request_id = "r1"}), *fork);
  EXPECT_STORE_ERROR(store().Fork("t", {fork->id}, {.request_id = "r1"}), kRequestIdReused);

  const std::string head = further.head_snapshot_id;
  const auto rewound = store().Rewind("t", "s", head, 3, "w1");
  ASSERT_TRUE(rewound.ok());
  EXPECT_EQ(*store().Rewind("t", "s", head, 3, "w1"), *rewound);
  EXPECT_EQ(store().GetSession("t", "s")->version, 4u);
}

TEST_P(StoreContract, OldRequestIdsAreForgotten) {
  options_.request_ids_per_session = 3;
  Reopen();
  Session session = Create("s");
  std::vector<Session> before{session};
  for (int i = 0; i < 5; ++i) {
    session = Commit(session, i, {.request_id = Cat("c", i)});
    before.push_back(session);
  }
  StatsOf();  // what is still on its way to the store may be remembered for longer
  EXPECT_STORE_ERROR(
      store().PutAndCommit("t", "s", before[1].version, MakeTestSnapshot(1), {.request_id = "c1"}),
      kVersionMismatch);
  EXPECT_EQ(Commit(before[2], 2, {.request_id = "c2"}), before[3]);
  ASSERT_TRUE(store().CreateSession("t", {.id = "x", .request_id = "r"}).ok());
  clock_.Advance(options_.request_id_ttl + absl::Seconds(1));
  ASSERT_TRUE(store().SweepExpired(clock_.Now()).ok());
  EXPECT_STORE_ERROR(
      store().PutAndCommit("t", "s", before[2].version, MakeTestSnapshot(2), {.request_id = "c2"}),
      kVersionMismatch);
  EXPECT_STORE_ERROR(store().CreateSession("t", {.id = "x", .request_id = "r"}), kSessionExists);
}

TEST_P(StoreContract, HeadsThatNobodyKeepsAreCollected) {
  Session session = Commit(Create("s"), 1);
  const StoreStats one = StatsOf();
  EXPECT_EQ(one.snapshots, 1u);
  const std::string first = session.head_snapshot_id;
  for (uint64_t seed = 10; seed < 20; ++seed) session = Commit(session, seed);
  EXPECT_EQ(StatsOf(), one) << "same sizes, so the same statistics";
  EXPECT_STORE_ERROR(store().GetSnapshot("t", "s", first), kSnapshotNotFound);
  ASSERT_TRUE(store().DeleteSession("t", "s").ok());
  EXPECT_EQ(StatsOf(), StoreStats{});
}

TEST_P(StoreContract, RetainedSnapshotsStay) {
  Session session = Commit(Create("s"), 1, {.keep = true});
  const std::string first = session.head_snapshot_id;
  session = Commit(session, 2);
  const auto named = store().CreateSnapshot("t", "s");
  ASSERT_TRUE(named.ok());
  EXPECT_TRUE(named->retained);
  EXPECT_EQ(named->manifest.snapshot_id, session.head_snapshot_id);
  EXPECT_EQ(store().CreateSnapshot("t", "s")->manifest, named->manifest) << "again";
  session = Commit(session, 3);
  EXPECT_EQ(StatsOf().snapshots, 3u);
  const auto read = store().ReadSnapshot("t", "s", first);
  ASSERT_TRUE(read.ok());
  EXPECT_TRUE(SameState(MakeTestSnapshot(1), *read));

  EXPECT_STORE_ERROR(store().DeleteSnapshot("t", "s", session.head_snapshot_id), kSnapshotIsHead);
  ASSERT_TRUE(store().DeleteSnapshot("t", "s", first).ok());
  EXPECT_STORE_ERROR(store().DeleteSnapshot("t", "s", first), kSnapshotNotFound);
  EXPECT_STORE_ERROR(store().ReadSnapshot("t", "s", first), kSnapshotNotFound);
  EXPECT_EQ(StatsOf().snapshots, 2u);
}

TEST_P(StoreContract, UnchangedChunksAreStoredOnce) {
  // 96 bytes and 4 x 512: five chunks.
  Snapshot snapshot = MakeTestSnapshot(1, 2048);
  Session session = Create("s");
  session = *store().PutAndCommit("t", "s", session.version, snapshot, {.keep = true});
  const StoreStats one = StatsOf();
  EXPECT_EQ(one.chunks, 5u);
  EXPECT_EQ(one.stored_bytes, 96u + 2048u);
  snapshot.payloads[1][700] ^= 1;
  session = *store().PutAndCommit("t", "s", session.version, snapshot, {.keep = true});
  EXPECT_EQ(StatsOf().chunks, 6u);
  EXPECT_EQ(StatsOf().stored_bytes, one.stored_bytes + 512);
  EXPECT_EQ(StatsOf().logical_bytes, 2 * one.logical_bytes);
  const auto read = store().ReadSnapshot("t", "s", "");
  ASSERT_TRUE(read.ok());
  EXPECT_TRUE(SameState(snapshot, *read));

  const StoreStats before = StatsOf();
  ASSERT_TRUE(store().Fork("t", {"s"}, {.id = "f"}).ok());
  EXPECT_EQ(StatsOf().chunks, before.chunks);
  EXPECT_EQ(StatsOf().stored_bytes, before.stored_bytes);
  EXPECT_EQ(StatsOf().snapshots, before.snapshots);
}

TEST_P(StoreContract, TenantsShareNothing) {
  Commit(Create("s", "t"), 1);
  const StoreStats mine = StatsOf("t");
  Commit(Create("s", "u"), 1);
  EXPECT_EQ(StatsOf("t"), mine);
  EXPECT_EQ(StatsOf("u"), mine) << "equal bytes are stored again for the other tenant";
  const auto a = store().GetSnapshot("t", "s", "");
  const auto b = store().GetSnapshot("u", "s", "");
  EXPECT_NE(a->manifest.parts[0].chunks[0].digest, b->manifest.parts[0].chunks[0].digest);
  EXPECT_STORE_ERROR(store().GetSnapshot("u", "s", a->manifest.snapshot_id), kSnapshotNotFound);
  EXPECT_STORE_ERROR(store().GetSession("v", "s"), kSessionNotFound);
  ASSERT_TRUE(store().DeleteSession("t", "s").ok());
  ExpectHead("s", 1, "u");
}

TEST_P(StoreContract, ForksGoTheirOwnWay) {
  Session parent = Commit(Create("p"), 1);
  const auto fork = store().Fork("t", {"p"}, {.id = "f", .labels = {{"k", "v"}}});
  ASSERT_TRUE(fork.ok()) << fork.status();
  EXPECT_EQ(fork->version, 1u);
  EXPECT_EQ(fork->head_snapshot_id, parent.head_snapshot_id);
  EXPECT_EQ(fork->parent_session_id, "p");
  EXPECT_EQ(fork->parent_snapshot_id, parent.head_snapshot_id);
  EXPECT_EQ(fork->position, parent.position);
  EXPECT_EQ(fork->model_id, parent.model_id);
  const std::string origin = fork->parent_snapshot_id;
  parent = Commit(parent, 2);
  Session child = Commit(*fork, 3);
  ExpectHead("p", 2);
  ExpectHead("f", 3);
  EXPECT_STORE_ERROR(store().GetSnapshot("t", "p", origin), kSnapshotNotFound);
  ASSERT_TRUE(store().DeleteSession("t", "p").ok());
  const auto back = store().Rewind("t", "f", origin, child.version, "");
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->version, child.version + 1);
  ExpectHead("f", 1);
  child = Commit(*back, 4);
  EXPECT_TRUE(store().GetSnapshot("t", "f", origin)->is_origin);
  ASSERT_TRUE(store().DeleteSnapshot("t", "f", origin).ok());
  EXPECT_STORE_ERROR(store().GetSnapshot("t", "f", origin), kSnapshotNotFound);
  EXPECT_EQ(StatsOf().snapshots, 1u);
  EXPECT_EQ(store().GetSession("t", "f")->parent_snapshot_id, origin) << "still says so";
}

TEST_P(StoreContract, ForkOfANamedSnapshot) {
  Session session = Commit(Create("s"), 1, {.keep = true});
  const std::string first = session.head_snapshot_id;
  Commit(session, 2);
  ASSERT_TRUE(store().Fork("t", {"s", first}, {.id = "f"}).ok());
  ExpectHead("f", 1);
  ASSERT_TRUE(store().DeleteSnapshot("t", "s", first).ok());
  ExpectHead("f", 1);
  EXPECT_STORE_ERROR(store().Fork("t", {"s", first}, {}), kSnapshotNotFound);
  EXPECT_STORE_ERROR(store().Fork("t", {"s"}, {.id = "f"}), kSessionExists);
  EXPECT_STORE_ERROR(store().Fork("t", {"none"}, {}), kSessionNotFound);
}

TEST_P(StoreContract, RewindMovesBackAndForth) {
  Session session = Commit(Create("s"), 1, {.keep = true});
  const std::string first = session.head_snapshot_id;
  session = Commit(session, 2, {.keep = true});
  const std::string second = session.head_snapshot_id;
  auto moved = store().Rewind("t", "s", first, session.version, "");
  ASSERT_TRUE(moved.ok());
  EXPECT_EQ(moved->position, 2u);
  ExpectHead("s", 1);
  moved = store().Rewind("t", "s", second, moved->version, "");
  ASSERT_TRUE(moved.ok());
  ExpectHead("s", 2);
  EXPECT_EQ(moved->version, session.version + 2);
  EXPECT_STORE_ERROR(store().Rewind("t", "s", "nothing", moved->version, ""), kSnapshotNotFound);
}

TEST_P(StoreContract, ListsArePagedInAStableOrder) {
  std::set<std::string> ids;
  for (int i = 0; i < 25; ++i) ids.insert(Create(Cat("s", (i * 7) % 25)).id);
  std::vector<std::string> seen;
  PageRequest page{.page_size = 10};
  for (;;) {
    const auto got = store().ListSessions("t", page);
    ASSERT_TRUE(got.ok()) << got.status();
    for (const Session& session : got->sessions) seen.push_back(session.id);
    if (seen.size() == 10) {
      // What comes and goes behind the cursor does not shift the pages.
      ASSERT_TRUE(store().DeleteSession("t", seen[0]).ok());
      Create("a");
    }
    if (got->next_page_token.empty()) break;
    page.page_token = got->next_page_token;
  }
  EXPECT_EQ(seen, std::vector<std::string>(ids.begin(), ids.end()));

  Session session = Create("many");
  std::vector<std::string> made, listed;
  for (int i = 0; i < 7; ++i) {
    session = Commit(session, i, {.keep = true});
    made.push_back(session.head_snapshot_id);
  }
  page = {.page_size = 3};
  do {
    const auto got = store().ListSnapshots("t", "many", page);
    ASSERT_TRUE(got.ok());
    for (const SnapshotInfo& info : got->snapshots) listed.push_back(info.manifest.snapshot_id);
    page.page_token = got->next_page_token;
  } while (!page.page_token.empty());
  EXPECT_EQ(listed, made);
  EXPECT_TRUE(store().ListSnapshots("t", "many", {})->snapshots.back().is_head);
  EXPECT_STORE_ERROR(store().ListSessions("t", {.page_size = -1}), kInvalidArgument);
}

TEST_P(StoreContract, PageTokensCannotBeAlteredOrMoved) {
  for (const char* id : {"a", "b", "c"}) Create(id);
  const std::string token = store().ListSessions("t", {.page_size = 1})->next_page_token;
  ASSERT_FALSE(token.empty());
  for (size_t i = 0; i < token.size(); ++i) {
    for (const char c : {'A', 'b', '-', '!'}) {
      std::string bad = token;
      if (bad[i] == c) continue;
      bad[i] = c;
      EXPECT_STORE_ERROR(store().ListSessions("t", {.page_token = bad}), kInvalidPageToken);
    }
    EXPECT_STORE_ERROR(store().ListSessions("t", {.page_token = token.substr(i + 1) + "x"}),
                       kInvalidPageToken);
  }
  EXPECT_STORE_ERROR(store().ListSessions("u", {.page_token = token}), kInvalidPageToken);
  EXPECT_STORE_ERROR(store().ListSnapshots("t", "a", {.page_token = token}), kInvalidPageToken);
  // Nor to another tenant's session of the same name, or to another session.
  Session session = *store().GetSession("t", "a");
  for (int i = 0; i < 3; ++i) session = Commit(session, i, {.keep = true});
  const std::string snapshots = store().ListSnapshots("t", "a", {.page_size = 1})->next_page_token;
  ASSERT_TRUE(store().ListSnapshots("t", "a", {.page_token = snapshots}).ok());
  ASSERT_TRUE(store().CreateSession("u", {.id = "a"}).ok());
  EXPECT_STORE_ERROR(store().ListSnapshots("u", "a", {.page_token = snapshots}), kInvalidPageToken);
  EXPECT_STORE_ERROR(store().ListSnapshots("t", "b", {.page_token = snapshots}), kInvalidPageToken);
}

TEST_P(StoreContract, SessionsExpire) {
  const auto made = store().CreateSession("t", {.id = "s", .ttl = absl::Hours(1)});
  ASSERT_TRUE(made.ok());
  Create("forever");
  clock_.Advance(absl::Minutes(59));
  const Session session = Commit(*made, 1, {.keep = true});
  EXPECT_EQ(session.expires, clock_.Now() + absl::Hours(1)) << "a commit gives it new time";
  EXPECT_EQ(*store().SweepExpired(clock_.Now()), 0);
  clock_.Advance(absl::Hours(1));
  EXPECT_STORE_ERROR(store().GetSession("t", "s"), kSessionExpired);
  EXPECT_STORE_ERROR(store().ReadSnapshot("t", "s", ""), kSessionExpired);
  EXPECT_STORE_ERROR(store().PutAndCommit("t", "s", 2, MakeTestSnapshot(2), {}), kSessionExpired);
  EXPECT_STORE_ERROR(store().UpdateSession("t", "s", {}), kSessionExpired);
  EXPECT_EQ(store().ListSessions("t", {})->sessions.size(), 1u);
  EXPECT_EQ(StatsOf().snapshots, 1u);
  EXPECT_EQ(*store().SweepExpired(clock_.Now()), 1);
  EXPECT_STORE_ERROR(store().GetSession("t", "s"), kSessionNotFound);
  EXPECT_EQ(StatsOf().chunks, 0u);
}

TEST_P(StoreContract, AnExpiredSessionMakesRoomForItsId) {
  ASSERT_TRUE(store().CreateSession("t", {.id = "s", .ttl = absl::Hours(1)}).ok());
  Commit(*store().GetSession("t", "s"), 1);
  clock_.Advance(absl::Hours(2));
  const Session fresh = Create("s");
  EXPECT_EQ(fresh.version, 1u);
  EXPECT_EQ(fresh.head_snapshot_id, "");
  EXPECT_EQ(StatsOf().snapshots, 0u);
}

TEST_P(StoreContract, UpdateChangesWhatItNames) {
  const Session session = Commit(Create("s"), 1);
  auto updated = store().UpdateSession("t", "s", {.ttl = absl::Minutes(5)});
  ASSERT_TRUE(updated.ok());
  EXPECT_EQ(updated->expires, clock_.Now() + absl::Minutes(5));
  EXPECT_EQ(updated->version, session.version);
  updated = store().UpdateSession("t", "s", {.labels = Labels{{"x", "y"}}});
  ASSERT_TRUE(updated.ok());
  EXPECT_EQ(updated->labels, (Labels{{"x", "y"}}));
  EXPECT_EQ(updated->ttl, absl::Minutes(5));
  updated = store().UpdateSession("t", "s", {.ttl = absl::InfiniteDuration()});
  EXPECT_EQ(updated->expires, absl::InfiniteFuture());
  EXPECT_STORE_ERROR(store().UpdateSession("t", "s", {.ttl = -absl::Seconds(1)}), kInvalidArgument);
  EXPECT_STORE_ERROR(store().UpdateSession("t", "none", {}), kSessionNotFound);
}

TEST_P(StoreContract, CapIsATypedErrorThatLosesNothing) {
  options_.max_stored_bytes = 5000;
  Reopen();
  Session session = Commit(Create("s"), 1, {.keep = true});  // 2096 bytes
  session = Commit(session, 20);
  const StoreStats before = StatsOf();
  const CommitOptions checked{.durability = GetParam().writes_behind ? Durability::kSync
                                                                     : Durability::kAsync};
  EXPECT_STORE_ERROR(store().PutAndCommit("t", "s", session.version, MakeTestSnapshot(40), checked),
                     kStoreFull);
  EXPECT_EQ(*store().GetSession("t", "s"), session);
  EXPECT_EQ(StatsOf(), before);
  ExpectHead("s", 20);
  ASSERT_TRUE(
      store()
          .DeleteSnapshot("t", "s",
                          store().ListSnapshots("t", "s", {})->snapshots[0].manifest.snapshot_id)
          .ok());
  Commit(session, 40);
}

TEST_P(StoreContract, CompressedChunksComeBack) {
  options_.codec = ChunkCodec::kZstd;
  Reopen();
  Snapshot snapshot = MakeTestSnapshot(1, 4096);
  snapshot.payloads[1] = std::string(4096, 'z');
  Session session = Create("s");
  session = *store().PutAndCommit("t", "s", 1, snapshot, {});
  EXPECT_LT(StatsOf().stored_bytes, 200u);
  EXPECT_TRUE(SameState(snapshot, *store().ReadSnapshot("t", "s", "")));
  StringSource source(Export("s"));
  options_.codec = ChunkCodec::kRaw;
  if (GetParam().lasting) {
    Reopen();
    session = *store().PutAndCommit("t", "s", session.version, snapshot, {});
    EXPECT_LT(StatsOf().stored_bytes, 200u) << "what is there already stays as it is";
  }
}

TEST_P(StoreContract, LastingStoresRemember) {
  if (!GetParam().lasting) GTEST_SKIP();
  Session session = Commit(Create("s"), 1, {.keep = true, .request_id = "c"});
  const std::string token = [&] {
    Create("s2");
    return store().ListSessions("t", {.page_size = 1})->next_page_token;
  }();
  const auto fork = store().Fork("t", {"s"}, {.id = "f", .ttl = absl::Hours(1)});
  ASSERT_TRUE(fork.ok());
  const StoreStats before = StatsOf();
  Reopen();
  EXPECT_EQ(*store().GetSession("t", "s"), session);
  EXPECT_EQ(*store().GetSession("t", "f"), *fork);
  EXPECT_EQ(StatsOf(), before);
  ExpectHead("s", 1);
  EXPECT_TRUE(store().ListSessions("t", {.page_token = token}).ok());
  EXPECT_EQ(store().PutAndCommit("t", "s", 1, MakeTestSnapshot(1), {.request_id = "c"})->version,
            2u);
}

}  // namespace reprise::state_store
