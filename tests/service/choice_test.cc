// One answer on its way to its reader: how far it may run ahead, and when a reader counts as gone.
#include "service/choice.h"

#include <gtest/gtest.h>

#include "base/clock.h"

namespace reprise::service {
namespace {

class Owner final : public ChoiceOwner {
 public:
  bool MayGoOn() override { return true; }
  void OnStalled() override { ++stalls; }
  void OnToken() override {}
  void OnCheckpoint(Choice&, scheduler::Checkpoint) override {}
  void OnEnd(Choice&, scheduler::RequestResult) override {}
  int stalls = 0;
};

class ChoiceTest : public ::testing::Test {
 protected:
  static Choice::Options Options() {
    Choice::Options options;
    options.max_unwritten_tokens = 4;
    options.stall = absl::Seconds(10);
    return options;
  }
  void Draw(int count) {
    for (int i = 0; i < count; ++i) {
      kernels::SampledToken token;
      token.id = i;
      choice_.OnToken(token);
    }
  }

  FakeClock clock_;
  Owner owner_;
  Choice choice_{&owner_, &clock_, nullptr, Options()};
};

TEST_F(ChoiceTest, WhatWaitsAndWhatIsBeingWrittenCountTogether) {
  Draw(3);
  EXPECT_TRUE(choice_.Writable());
  Draw(1);
  EXPECT_FALSE(choice_.Writable());
  ASSERT_TRUE(choice_.TakeEvent().has_value());
  EXPECT_FALSE(choice_.Writable());  // on its way is not read
  EXPECT_TRUE(choice_.NoteWritten());
  EXPECT_FALSE(choice_.NoteWritten());  // once: the sequence has been woken
  EXPECT_TRUE(choice_.Writable());
  Draw(3);
  EXPECT_TRUE(choice_.Writable());
  ASSERT_TRUE(choice_.TakeEvent().has_value());
  EXPECT_FALSE(choice_.NoteWritten());  // nobody waits for it
}

TEST_F(ChoiceTest, AReaderIsGoneWhenNothingWasReadForTooLong) {
  clock_.Advance(absl::Hours(1));
  Draw(4);
  EXPECT_FALSE(choice_.Writable());  // from now on
  clock_.Advance(absl::Seconds(10));
  EXPECT_FALSE(choice_.Writable());
  EXPECT_EQ(owner_.stalls, 0);
  choice_.NoteProgress();  // of another choice of the call
  clock_.Advance(absl::Seconds(10));
  EXPECT_FALSE(choice_.Writable());
  EXPECT_EQ(owner_.stalls, 0);
  clock_.Advance(absl::Nanoseconds(1));
  EXPECT_FALSE(choice_.Writable());
  EXPECT_EQ(owner_.stalls, 1);
  clock_.Advance(absl::Hours(1));
  EXPECT_FALSE(choice_.Writable());
  EXPECT_EQ(owner_.stalls, 1);
}

TEST_F(ChoiceTest, EachPauseBeginsAnew) {
  Draw(4);
  EXPECT_FALSE(choice_.Writable());
  clock_.Advance(absl::Seconds(9));
  ASSERT_TRUE(choice_.TakeEvent().has_value());
  choice_.NoteWritten();
  Draw(4);
  EXPECT_FALSE(choice_.Writable());
  clock_.Advance(absl::Seconds(9));
  EXPECT_FALSE(choice_.Writable());
  EXPECT_EQ(owner_.stalls, 0);
}

}  // namespace
}  // namespace reprise::service
