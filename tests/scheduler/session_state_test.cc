#include "scheduler/session_state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace reprise::scheduler {
namespace {

using ::testing::HasSubstr;

models::StateLayout Layout() {
  models::StateLayout layout;
  layout.Add(0, models::StateRole::kRgLru, kernels::DType::kF32, {3, 5});
  layout.Add(2, models::StateRole::kConvTail, kernels::DType::kBF16, {3, 7});
  return layout;
}

ModelIdentity Identity() { return {"m", "weights", "tokenizer", Layout().Digest(), "cpu-1"}; }

SessionLegs Legs() {
  SessionLegs legs;
  legs.sequence.image.resize(Layout().bytes());
  for (size_t i = 0; i < legs.sequence.image.size(); ++i) {
    legs.sequence.image[i] = static_cast<uint8_t>(i * 37 + 1);
  }
  legs.sequence.position = 1234567;
  legs.sequence.pending = 250000;
  legs.seed = 0xfedcba9876543210;
  legs.detokenizer = std::string("\x01\x00\xff", 3);
  legs.token_hash = ExtendTokenHash({}, {1, 2, 3});
  return legs;
}

state_store::Snapshot MustMake(const SessionLegs& legs) {
  absl::StatusOr<state_store::Snapshot> snapshot = MakeSnapshot(Identity(), Layout(), legs);
  EXPECT_TRUE(snapshot.ok()) << snapshot.status();
  return *snapshot;
}

TEST(SessionStateTest, ComesBackAsItWas) {
  const SessionLegs legs = Legs();
  const state_store::Snapshot snapshot = MustMake(legs);
  EXPECT_EQ(snapshot.manifest.token_count, 1234568u);
  EXPECT_TRUE(state_store::ValidateManifest(snapshot.manifest).ok() ||
              snapshot.manifest.tenant.empty());
  const absl::StatusOr<SessionLegs> restored = RestoreSnapshot(Identity(), Layout(), snapshot);
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_EQ(restored->sequence.image, legs.sequence.image);
  EXPECT_EQ(restored->sequence.position, legs.sequence.position);
  EXPECT_EQ(restored->sequence.pending, legs.sequence.pending);
  EXPECT_EQ(restored->seed, legs.seed);
  EXPECT_EQ(restored->detokenizer, legs.detokenizer);
  EXPECT_EQ(restored->token_hash, legs.token_hash);
}

TEST(SessionStateTest, APositionZeroStateHasNoParts) {
  SessionLegs legs = Legs();
  legs.sequence.image.clear();
  legs.sequence.position = 0;
  const state_store::Snapshot snapshot = MustMake(legs);
  EXPECT_TRUE(snapshot.payloads.empty());
  const absl::StatusOr<SessionLegs> restored = RestoreSnapshot(Identity(), Layout(), snapshot);
  ASSERT_TRUE(restored.ok());
  EXPECT_EQ(restored->sequence.pending, 250000);
}

TEST(SessionStateTest, AnotherModelsSnapshotIsRefusedByName) {
  const state_store::Snapshot snapshot = MustMake(Legs());
  const auto refuse = [&](auto change, const char* field) {
    ModelIdentity identity = Identity();
    change(identity);
    const absl::Status status = RestoreSnapshot(identity, Layout(), snapshot).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    const absl::optional<absl::Cord> payload = status.GetPayload(kMismatchPayload);
    ASSERT_TRUE(payload.has_value());
    EXPECT_THAT(std::string(*payload), HasSubstr(field));
  };
  refuse([](ModelIdentity& i) { i.weights_fingerprint = "x"; }, "weights_fingerprint\nx\nweights");
  refuse([](ModelIdentity& i) { i.tokenizer_fingerprint = "x"; }, "tokenizer_fingerprint");
  refuse([](ModelIdentity& i) { i.layout_digest = "x"; }, "layout_digest");
  refuse([](ModelIdentity& i) { i.numerics_id = "x"; }, "numerics_id");
  ModelIdentity renamed = Identity();
  renamed.model_id = "another name";
  EXPECT_TRUE(RestoreSnapshot(renamed, Layout(), snapshot).ok());
}

TEST(SessionStateTest, DamagedSnapshotsAreDataLoss) {
  const auto damage = [&](auto change) {
    state_store::Snapshot snapshot = MustMake(Legs());
    change(snapshot);
    return RestoreSnapshot(Identity(), Layout(), snapshot).status().code();
  };
  using state_store::Snapshot;
  constexpr absl::StatusCode kDataLoss = absl::StatusCode::kDataLoss;
  EXPECT_EQ(damage([](Snapshot& s) { s.manifest.legs.erase("sampler"); }), kDataLoss);
  EXPECT_EQ(damage([](Snapshot& s) { s.manifest.legs["sampler"] = "abc"; }), kDataLoss);
  EXPECT_EQ(damage([](Snapshot& s) { s.manifest.legs["pending_tokens"] = "abc"; }), kDataLoss);
  EXPECT_EQ(damage([](Snapshot& s) { s.manifest.legs["pending_tokens"] = ""; }), kDataLoss);
  EXPECT_EQ(damage([](Snapshot& s) { s.manifest.token_count += 1; }), kDataLoss);
  EXPECT_EQ(damage([](Snapshot& s) { s.manifest.position = 0; }), kDataLoss);
  for (const uint64_t position :
       {~uint64_t{0}, uint64_t{1} << 63, (uint64_t{1} << 63) - 1, (uint64_t{1} << 53) + 1}) {
    EXPECT_EQ(damage([=](Snapshot& s) {
                s.manifest.position = position;
                s.manifest.token_count = position + 1;
              }),
              kDataLoss)
        << position;
  }
  EXPECT_EQ(damage([](Snapshot& s) { s.payloads.pop_back(); }), kDataLoss);
  EXPECT_EQ(damage([](Snapshot& s) { s.payloads[1].pop_back(); }), kDataLoss);
  EXPECT_EQ(damage([](Snapshot& s) { s.manifest.parts[0].dtype = "f16"; }), kDataLoss);
  EXPECT_EQ(damage([](Snapshot& s) { s.manifest.parts[0].shape = {5, 3}; }), kDataLoss);
  EXPECT_EQ(damage([](Snapshot& s) { std::swap(s.manifest.parts[0], s.manifest.parts[1]); }),
            kDataLoss);
}

TEST(SessionStateTest, AnImageOfTheWrongSizeIsNotWritten) {
  SessionLegs legs = Legs();
  legs.sequence.image.pop_back();
  EXPECT_EQ(MakeSnapshot(Identity(), Layout(), legs).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(TokenHashTest, DoesNotDependOnGrouping) {
  const Sha256Digest whole = ExtendTokenHash({}, {5, 6, 7, 8});
  EXPECT_EQ(ExtendTokenHash(ExtendTokenHash({}, {5}), {6, 7, 8}), whole);
  EXPECT_NE(ExtendTokenHash({}, {5, 6, 8, 7}), whole);
}

}  // namespace
}  // namespace reprise::scheduler
