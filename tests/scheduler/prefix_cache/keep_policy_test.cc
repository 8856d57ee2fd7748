#include "scheduler/prefix_cache/keep_policy.h"

#include <gtest/gtest.h>

#include <random>

namespace reprise::scheduler {
namespace {

using Lengths = std::vector<int64_t>;

KeepInput Input(int64_t reused, int64_t known, int64_t length) {
  KeepInput input;
  input.reused = reused;
  input.known = known;
  input.length = input.longest = length;
  return input;
}

TEST(KeepPolicyTest, KeepsTheEndOfAPrompt) {
  EXPECT_EQ(PlanKeeps(Input(0, 0, 500), {}), (Lengths{500}));
}

TEST(KeepPolicyTest, NotWhatSavesLittle) {
  EXPECT_EQ(PlanKeeps(Input(0, 0, 31), {}), Lengths());
  EXPECT_EQ(PlanKeeps(Input(469, 470, 500), {}), Lengths());
  EXPECT_EQ(PlanKeeps(Input(468, 470, 500), {}), (Lengths{500}));
}

TEST(KeepPolicyTest, KeepsWhereItPartsFromAnotherPrompt) {
  EXPECT_EQ(PlanKeeps(Input(0, 300, 500), {}), (Lengths{300, 500}));
  // Already kept there.
  EXPECT_EQ(PlanKeeps(Input(300, 300, 500), {}), (Lengths{500}));
}

TEST(KeepPolicyTest, APromptSeenBeforeIsKeptBeforeItsLastToken) {
  EXPECT_EQ(PlanKeeps(Input(0, 500, 500), {}), (Lengths{499, 500}));
}

TEST(KeepPolicyTest, MarksAreKeptHoweverLittleTheySave) {
  const Lengths marks = {7, 3, 7, 0, 501, 499};
  KeepInput input = Input(3, 3, 500);
  input.marks = marks;
  EXPECT_EQ(PlanKeeps(input, {}), (Lengths{7, 499, 500}));
}

TEST(KeepPolicyTest, NothingBeyondTheLongest) {
  KeepInput input = Input(0, 500, 500);
  input.longest = 499;
  EXPECT_EQ(PlanKeeps(input, {}), (Lengths{499}));
}

TEST(KeepPolicyTest, LongPromptsKeepAFewAtPlacesThatDoNotDependOnTheirLength) {
  EXPECT_EQ(PlanKeeps(Input(0, 0, 4096), {}), (Lengths{4096}));
  EXPECT_EQ(PlanKeeps(Input(0, 0, 10'000), {}), (Lengths{4096, 8192, 10'000}));
  EXPECT_EQ(PlanKeeps(Input(5000, 0, 10'000), {}), (Lengths{8192, 10'000}));
  EXPECT_EQ(PlanKeeps(Input(0, 0, 1'000'000), {}), (Lengths{262'144, 524'288, 786'432, 1'000'000}));
}

TEST(KeepPolicyTest, NeverManyAndAlwaysInOrder) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 20'000; ++i) {
    const int64_t length = 1 + static_cast<int64_t>(random() % (1ull << (1 + random() % 40)));
    KeepInput input = Input(static_cast<int64_t>(random() % length),
                            static_cast<int64_t>(random() % (length + 1)), length);
    const Lengths keeps = PlanKeeps(input, {});
    EXPECT_LE(keeps.size(), kMostLongKeeps + 2u) << length << " " << input.reused;
    for (size_t k = 0; k < keeps.size(); ++k) {
      EXPECT_GT(keeps[k], k == 0 ? input.reused : keeps[k - 1]);
      EXPECT_LE(keeps[k], length);
    }
  }
}

}  // namespace
}  // namespace reprise::scheduler
