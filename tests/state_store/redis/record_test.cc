#include "state_store/redis/record.h"

#include <gtest/gtest.h>

#include "state_store/redis/keys.h"
#include "state_store/testing/builders.h"

namespace reprise::state_store::redis {
namespace {

TEST(Keys, NoTenantCanNameAnothersKeys) {
  const Keys keys("p:");
  EXPECT_EQ(keys.Session("t", "s"), "p:s:{t:s}");
  EXPECT_EQ(keys.Session("a:b}{", "s"), "p:s:{a%3Ab%7D%7B:s}");
  EXPECT_NE(keys.Session("a:b", "c"), keys.Session("a", "b:c"));
  const std::string tenants[] = {"t", "a b", "\xc3\xa9", "%41", "{}", ":", std::string(1, '\0')};
  for (const std::string& tenant : tenants) {
    const auto parsed = keys.ParseSession(keys.Session(tenant, "s-1"));
    ASSERT_TRUE(parsed.has_value());
    EXPECT_EQ(parsed->first, tenant);
    EXPECT_EQ(parsed->second, "s-1");
    EXPECT_EQ(UnescapeTenant(EscapeTenant(tenant)), tenant);
  }
  for (const auto* bad : {"p:s:{t}", "q:s:{t:s}", "p:c:{t:s}", "p:s:{t:s", "p:s:{%4:s}",
                          "p:s:{%41:s}", "p:s:{%zz:s}", "x"}) {
    EXPECT_FALSE(keys.ParseSession(bad).has_value()) << bad;
  }
  EXPECT_EQ(Keys("a*[").SessionPattern(), "a\\*\\[s:{*}");
}

TEST(Seal, NoticesEveryFlippedBitAndEveryOtherPlace) {
  const std::string sealed = Seal("key", "field", "some value");
  EXPECT_EQ(Unseal("key", "field", sealed, StoreError::kCorruptIndex).value(), "some value");
  for (size_t i = 0; i < sealed.size() * 8; ++i) {
    std::string flipped = sealed;
    flipped[i / 8] = static_cast<char>(flipped[i / 8] ^ (1 << (i % 8)));
    EXPECT_EQ(GetStoreError(Unseal("key", "field", flipped, StoreError::kCorruptIndex).status()),
              StoreError::kCorruptIndex);
  }
  for (size_t n = 0; n < sealed.size(); ++n) {
    EXPECT_FALSE(Unseal("key", "field", sealed.substr(0, n), StoreError::kCorruptIndex).ok());
  }
  EXPECT_FALSE(Unseal("other", "field", sealed, StoreError::kCorruptIndex).ok());
  EXPECT_FALSE(Unseal("key", "other", sealed, StoreError::kCorruptIndex).ok());
  EXPECT_FALSE(Unseal("keyf", "ield", sealed, StoreError::kCorruptIndex).ok());
}

SessionRecord SomeRecord() {
  SessionRecord record;
  record.session.tenant = "t";
  record.session.id = "s";
  record.session.version = 7;
  record.session.head_snapshot_id = "b";
  record.session.labels = {{"k", "v"}};
  record.holds_origin = true;
  record.uid = std::string(32, 'u');
  record.next_order = 9;
  record.snapshots = {{3, "a", true, {std::string(32, '1'), std::string(32, '3')}},
                      {5, "b", false, {std::string(32, '2'), ""}}};
  record.requests = {{RequestKind::kCommit, 4, "r1"}, {RequestKind::kRewind, 6, "r1"}};
  return record;
}

TEST(Record, ComesBackAndRefusesWhatIsCut) {
  const SessionRecord record = SomeRecord();
  const std::string bytes = EncodeRecord(record).value();
  const SessionRecord read = DecodeRecord(bytes).value();
  EXPECT_EQ(read.session, record.session);
  EXPECT_EQ(read.holds_origin, record.holds_origin);
  EXPECT_EQ(read.uid, record.uid);
  EXPECT_EQ(read.next_order, record.next_order);
  EXPECT_EQ(read.snapshots, record.snapshots);
  EXPECT_EQ(read.requests, record.requests);
  for (size_t n = 0; n < bytes.size(); ++n) {
    EXPECT_FALSE(DecodeRecord(std::string_view(bytes).substr(0, n)).ok()) << n;
  }
  EXPECT_FALSE(DecodeRecord(bytes + "x").ok());
  std::string newer = bytes;
  newer[0] = 3;
  EXPECT_EQ(GetStoreError(DecodeRecord(newer).status()), StoreError::kUnsupportedVersion);
  // Anyone may have written it: no byte may do worse than an error.
  for (size_t i = 0; i < bytes.size(); ++i) {
    for (const int value : {0, 1, 127, 255}) {
      std::string hostile = bytes;
      hostile[i] = static_cast<char>(value);
      DecodeRecord(hostile).status().IgnoreError();
    }
  }
}

TEST(Record, TwoSessionsInOneIndexKeepTheirSnapshotsApart) {
  // Both count their snapshots from 1: "b" of one must not look retained by the other.
  SessionRecord one = SomeRecord(), two = SomeRecord();
  one.holds_origin = two.holds_origin = false;
  two.session.id = "s2";
  two.session.head_snapshot_id = "d";
  two.snapshots = {{3, "c", true, {"p", "u"}}, {5, "d", false, {"p", "v"}}};
  two.requests.clear();
  SessionIndex index;
  ASSERT_TRUE(AddToIndex(one, {}, {}, index).ok());
  ASSERT_TRUE(AddToIndex(two, {}, {}, index).ok());
  EXPECT_EQ(index.FindSession("t", "s")->retained.count(index.FindSnapshot("t", "c")->order), 0u);
  EXPECT_EQ(index.FindSession("t", "s2")->retained.count(index.FindSnapshot("t", "c")->order), 1u);
}

TEST(Record, AppliesAPlannedMutation) {
  SessionRecord record = SomeRecord();
  auto manifest = std::make_shared<SnapshotManifest>(MakeTestSnapshot(1).manifest);
  manifest->tenant = "t";
  manifest->snapshot_id = "c";
  for (SnapshotPart& part : manifest->parts) part.byte_length = 0;
  Session moved = record.session;
  moved.head_snapshot_id = "c";
  ++moved.version;
  const auto changes =
      ApplyToRecord({{PutSnapshot{1, manifest}, PutSession{moved, false}, Retain{"t", "s", "c"},
                      Unretain{"t", "s", "a"}, EraseSnapshot{"t", "a"}, EraseSnapshot{"t", "x"},
                      EraseRequest{"t", RequestKind::kCommit, "s", "r1"}}},
                    "key", {"pin", "user"}, record);
  ASSERT_TRUE(changes.ok()) << changes.status();
  EXPECT_EQ(record.session, moved);
  EXPECT_FALSE(record.holds_origin);
  ASSERT_EQ(record.snapshots.size(), 2u);
  EXPECT_EQ(record.snapshots[1], (SnapshotRow{9, "c", true, {"pin", "user"}}));
  EXPECT_EQ(record.requests.size(), 1u);
  EXPECT_EQ(changes->deletes, (std::vector<std::string>{"m:a", "q:4:r1"}));
  ASSERT_EQ(changes->dropped.size(), 1u);
  EXPECT_EQ(changes->dropped[0].use.pin, std::string(32, '1'));
  EXPECT_FALSE(ApplyToRecord({{Retain{"t", "s", "nothing"}}}, "key", {"pin", "user"}, record).ok());
}

}  // namespace
}  // namespace reprise::state_store::redis
