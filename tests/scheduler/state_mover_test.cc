// States on their way between slots and host memory, while exports go on beside the steps.
#include "scheduler/internal/state_mover.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/fault_point.h"
#include "tests/scheduler/scheduler_fixture.h"

namespace reprise::scheduler {
namespace {

class CountingMoves final : public SchedulerMetrics {
 public:
  void OnMove(Move move, int64_t /*bytes*/, absl::Duration spent) override {
    ++(move == Move::kOutOfSlot ? out : in);
    time += spent;
  }
  int out = 0, in = 0;
  absl::Duration time;
};

class StateMoverTest : public ::testing::Test {
 protected:
  static constexpr int kSlots = 2 * models::StateSlots::kTransfers;

  // In a slot, at position 3, with every byte of its state `mark`.
  std::unique_ptr<Sequence> Running(RequestId id, uint8_t mark) {
    Request request;
    request.prompt = {1, 2, 3, 4};
    request.max_tokens = 5;
    auto sequence =
        std::make_unique<Sequence>(id, std::move(request), Admission::Ticket(), clock_.Now());
    EXPECT_TRUE(mover_.Enter(*sequence).ok());
    sequence->MarkFed(3);
    sequence->started = true;
    EXPECT_TRUE(slots_->Import(sequence->slot.slot(), Image(mark)).ok());
    return sequence;
  }
  Bytes Image(uint8_t mark) const { return Bytes(slots_->layout().bytes(), mark); }
  Bytes InSlot(const Sequence& sequence) { return mover_.Copy(sequence).value().image; }
  int64_t StateBytes() const { return static_cast<int64_t>(slots_->layout().bytes()); }

  PuppetModel model_{PuppetModel::Options()};
  FakeClock clock_;
  CountingMoves moves_;
  std::unique_ptr<models::StateSlots> slots_ =
      models::StateSlots::Create(model_.state_layout(), kSlots, OneThread()).value();
  StateMover mover_{slots_.get(), int64_t{1} << 30, &clock_, &moves_};
};

TEST_F(StateMoverTest, AParkedStateIsThatOfItsParkingAndComesBack) {
  const std::unique_ptr<Sequence> one = Running(1, 0x11);
  const int slot = one->slot.slot();
  ASSERT_TRUE(mover_.Park(*one).ok());
  EXPECT_EQ(mover_.parked_bytes(), StateBytes());  // from now on, wherever it is
  EXPECT_EQ(mover_.free_slots(), kSlots);
  const std::unique_ptr<Sequence> other = Running(2, 0x22);
  ASSERT_EQ(other->slot.slot(), slot);
  ASSERT_TRUE(mover_.Enter(*one).ok());  // before anybody settled it
  EXPECT_EQ(mover_.parked_bytes(), 0);
  EXPECT_EQ(InSlot(*one), Image(0x11));
  EXPECT_EQ(InSlot(*other), Image(0x22));
}

TEST_F(StateMoverTest, MoreLeaveAtOnceThanThereAreTransfers) {
  std::vector<std::unique_ptr<Sequence>> all;
  for (int i = 0; i < kSlots; ++i) {
    all.push_back(Running(i + 1, static_cast<uint8_t>(i + 1)));
  }
  for (const auto& sequence : all) ASSERT_TRUE(mover_.Park(*sequence).ok());
  EXPECT_EQ(mover_.parked_bytes(), kSlots * StateBytes());
  const std::unique_ptr<Sequence> last = Running(100, 0x77);  // imports need room, too
  mover_.SettleAll();
  for (int i = 0; i < kSlots; ++i) {
    EXPECT_EQ(all[i]->image, Image(static_cast<uint8_t>(i + 1))) << i;
  }
  EXPECT_EQ(mover_.parked_bytes(), kSlots * StateBytes());
  EXPECT_EQ(moves_.out, kSlots);
}

TEST_F(StateMoverTest, AnEndFindsTheStateThatIsOnItsWay) {
  const std::unique_ptr<Sequence> one = Running(1, 0x11), two = Running(2, 0x22);
  ASSERT_TRUE(mover_.Park(*one).ok());
  ASSERT_TRUE(mover_.Park(*two).ok());
  const absl::StatusOr<SequenceState> taken = mover_.Take(*one);
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_EQ(taken->image, Image(0x11));
  EXPECT_EQ(mover_.parked_bytes(), StateBytes());
  mover_.Release(*two);  // nobody wants it
  EXPECT_EQ(mover_.parked_bytes(), 0);
  mover_.SettleAll();
  EXPECT_EQ(mover_.parked_bytes(), 0);
  EXPECT_TRUE(two->image.empty());  // it might be gone by then
}

TEST_F(StateMoverTest, CopiesAreThoseOfTheirCallsInTheirOrder) {
  const std::unique_ptr<Sequence> one = Running(1, 0x11), two = Running(2, 0x22);
  std::string order;
  const auto note = [&](const char* name, uint8_t mark) {
    return [&, name, mark](absl::StatusOr<SequenceState> state) {
      ASSERT_TRUE(state.ok()) << state.status();
      EXPECT_EQ(state->image, Image(mark));
      EXPECT_EQ(state->position, 3);
      order += name;
    };
  };
  ASSERT_TRUE(mover_.BeginCopy(*one, note("a", 0x11)).ok());
  ASSERT_TRUE(slots_->Import(one->slot.slot(), Image(0x33)).ok());
  ASSERT_TRUE(mover_.BeginCopy(*two, note("b", 0x22)).ok());
  ASSERT_TRUE(mover_.BeginCopy(*one, note("c", 0x33)).ok());
  ASSERT_TRUE(mover_.BeginCopy(*two, note("d", 0x22)).ok());
  EXPECT_EQ(order, "");
  EXPECT_EQ(moves_.out, 0);
  mover_.Settle(*one);
  EXPECT_EQ(order, "ac");
  mover_.SettleAll();
  EXPECT_EQ(order, "acbd");
  EXPECT_EQ(moves_.out, 4);
}

// Both halves of an export kept the thread.
TEST_F(StateMoverTest, AMoveIsToldWithAllTheTimeItTook) {
  class Ticking final : public Clock {
   public:
    absl::Time Now() const override { return now_ += absl::Milliseconds(1); }

   private:
    mutable absl::Time now_ = absl::UnixEpoch();
  } clock;
  StateMover mover(slots_.get(), int64_t{1} << 30, &clock, &moves_);
  const std::unique_ptr<Sequence> one = Running(1, 0x11);
  moves_.time = absl::ZeroDuration();
  ASSERT_TRUE(mover.BeginCopy(*one, [](const absl::StatusOr<SequenceState>&) {}).ok());
  mover.SettleAll();
  EXPECT_EQ(moves_.time, absl::Milliseconds(2));
}

#ifdef REPRISE_FAULT_POINTS
TEST_F(StateMoverTest, AParkedStateThatNeverArrivesIsLostAndSaysSo) {
  const std::unique_ptr<Sequence> lost = Running(1, 0x11), ended = Running(2, 0x22),
                                  other = Running(3, 0x33);
  ASSERT_TRUE(mover_.Park(*lost).ok());
  ChooseFaultPoint(models::StateSlots::kExportFaultPoint);
  mover_.SettleAll();
  ChooseFaultPoint("");
  EXPECT_EQ(mover_.parked_bytes(), 0);
  EXPECT_FALSE(lost->leaving);
  EXPECT_TRUE(absl::IsInternal(mover_.Enter(*lost))) << "zeros instead of its state";
  EXPECT_FALSE(lost->slot.valid());
  EXPECT_TRUE(absl::IsInternal(mover_.Take(*lost).status()));
  EXPECT_EQ(moves_.out, 0);
  mover_.Release(*lost);
  EXPECT_EQ(mover_.parked_bytes(), 0);

  // The same when whoever needs it is the first to hear.
  ASSERT_TRUE(mover_.Park(*ended).ok());
  ASSERT_TRUE(mover_.Park(*other).ok());
  ChooseFaultPoint(models::StateSlots::kExportFaultPoint);
  EXPECT_TRUE(absl::IsInternal(mover_.Enter(*ended)));
  ChooseFaultPoint("");
  mover_.SettleAll();
  EXPECT_EQ(other->image, Image(0x33));
  EXPECT_EQ(mover_.parked_bytes(), StateBytes());
  mover_.Release(*ended);
  mover_.Release(*other);
  EXPECT_EQ(mover_.parked_bytes(), 0);
  EXPECT_EQ(mover_.free_slots(), kSlots);
}

TEST_F(StateMoverTest, ACopyThatFailsIsToldOnceAndTheSequenceKeepsItsSlot) {
  const std::unique_ptr<Sequence> one = Running(1, 0x11);
  std::vector<absl::StatusCode> told;
  const auto note = [&](const absl::StatusOr<SequenceState>& state) {
    told.push_back(state.status().code());
  };
  ASSERT_TRUE(mover_.BeginCopy(*one, note).ok());
  ASSERT_TRUE(mover_.BeginCopy(*one, note).ok());
  ChooseFaultPoint(models::StateSlots::kExportFaultPoint);
  mover_.Settle(*one);
  ChooseFaultPoint("");
  mover_.SettleAll();
  EXPECT_EQ(told, (std::vector{absl::StatusCode::kInternal, absl::StatusCode::kOk}));
  EXPECT_EQ(InSlot(*one), Image(0x11));
}
#endif

}  // namespace
}  // namespace reprise::scheduler
