// The contract of commits: what is remembered of them, and what their options do.
#include <string>

#include "state_store/internal/cat.h"
#include "state_store/testing/store_contract.h"

namespace reprise::state_store {

TEST_P(StoreContract, TheOutcomeOfACommitCanBeAskedFor) {
  const Session created = Create("s");
  const auto none = store().FindCommit("t", "s", "c1");
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_FALSE(none->has_value());
  EXPECT_STORE_ERROR(store().FindCommit("t", "other", "c1"), kSessionNotFound);
  EXPECT_STORE_ERROR(store().FindCommit("u", "s", "c1"), kSessionNotFound);
  EXPECT_STORE_ERROR(store().FindCommit("t", "s", std::string(300, 'x')), kInvalidArgument);

  const Session first = Commit(created, 1, {.request_id = "c1", .note = "first"});
  const Session second = Commit(first, 2, {.request_id = "c2"});
  const Session third = Commit(second, 3);
  const auto found = store().FindCommit("t", "s", "c1");
  ASSERT_TRUE(found.ok() && found->has_value()) << found.status();
  EXPECT_EQ((*found)->session, first);
  EXPECT_EQ((*found)->expected_version, created.version);
  EXPECT_EQ((*found)->note, "first");
  EXPECT_EQ((*store().FindCommit("t", "s", "c2"))->note, "");
  EXPECT_FALSE(store().FindCommit("t", "s", "")->has_value()) << "a commit without an id";
  // A rewind under the same id is another request.
  ASSERT_TRUE(store().Rewind("t", "s", third.head_snapshot_id, third.version, "c3").ok());
  EXPECT_FALSE(store().FindCommit("t", "s", "c3")->has_value());
  // A repeat need not give the note again.
  EXPECT_EQ(Commit(created, 1, {.request_id = "c1"}), first);
  EXPECT_STORE_ERROR(store().PutAndCommit("t", "s", 5, MakeTestSnapshot(1),
                                          {.request_id = "c9", .note = std::string(257, 'x')}),
                     kInvalidArgument);
}

TEST_P(StoreContract, TheCallerMayChooseTheSnapshotsId) {
  const std::string id(32, 'a');
  const Session session = Commit(Create("s"), 1, {.snapshot_id = id});
  EXPECT_EQ(session.head_snapshot_id, id);
  EXPECT_TRUE(SameState(MakeTestSnapshot(1), store().ReadSnapshot("t", "s", id).value()));
  for (const std::string& bad :
       {std::string("short"), std::string(32, 'G'), std::string(33, '0')}) {
    EXPECT_STORE_ERROR(store().PutAndCommit("t", "s", 2, MakeTestSnapshot(2), {.snapshot_id = bad}),
                       kInvalidArgument);
  }
  EXPECT_EQ(store().GetSession("t", "s")->version, 2u);
}

TEST_P(StoreContract, MoreReplicasThanCanBeAreRefused) {
  Create("s");
  EXPECT_STORE_ERROR(store().PutAndCommit("t", "s", 1, MakeTestSnapshot(1),
                                          {.durability = Durability::kSync, .replicas = 17}),
                     kInvalidArgument);
  EXPECT_EQ(store().GetSession("t", "s")->version, 1u);
}

}  // namespace reprise::state_store
