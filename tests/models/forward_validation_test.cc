// A malformed batch is INVALID_ARGUMENT and moves nothing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "tests/models/testing/model_runner.h"

namespace reprise::models::testing {
namespace {

using ::testing::HasSubstr;

struct Bad {
  const char* name;
  std::function<void(RaggedBatch&)> change;
  const char* message;
};

std::vector<Bad> BadBatches() {
  return {
      {"token_negative", [](RaggedBatch& b) { b.tokens[2] = -1; }, "token -1"},
      {"token_beyond", [](RaggedBatch& b) { b.tokens[4] = 71; }, "token 71"},
      {"padding_token_beyond", [](RaggedBatch& b) { b.tokens[6] = 71; }, "token 71"},
      {"slot_twice", [](RaggedBatch& b) { b.slots[1] = b.slots[0]; }, ""},
      {"slot_unknown", [](RaggedBatch& b) { b.slots[1] = 4; }, ""},
      {"slot_not_held", [](RaggedBatch& b) { b.slots[1] = 3; }, "not held"},
      {"offsets_short", [](RaggedBatch& b) { b.seq_offsets.pop_back(); }, "offsets"},
      {"offsets_long", [](RaggedBatch& b) { b.seq_offsets.push_back(7); }, "offsets"},
      {"offsets_empty", [](RaggedBatch& b) { b.seq_offsets.clear(); }, "offsets"},
      {"offsets_fall", [](RaggedBatch& b) { b.seq_offsets[1] = 6; }, ""},
      {"offsets_start", [](RaggedBatch& b) { b.seq_offsets[0] = 1; }, ""},
      {"offsets_end", [](RaggedBatch& b) { b.seq_offsets[3] = 6; }, ""},
      {"positions_short", [](RaggedBatch& b) { b.start_positions.pop_back(); }, "start positions"},
      {"position_negative", [](RaggedBatch& b) { b.start_positions[0] = -1; }, ""},
      {"position_huge", [](RaggedBatch& b) { b.start_positions[1] = (int64_t{1} << 40) + 1; },
       "start position"},
      {"rows_too_many",
       [](RaggedBatch& b) {
         b.tokens.resize(513, 1);
         b.seq_offsets[3] = 513;
       },
       "513 rows"},
      {"logit_row_negative", [](RaggedBatch& b) { b.logit_rows[0] = -1; }, "logit row"},
      {"logit_row_beyond", [](RaggedBatch& b) { b.logit_rows[1] = 7; }, "logit row"},
      {"logit_rows_fall",
       [](RaggedBatch& b) {
         b.logit_rows = {4, 3};
       },
       "logit row"},
      {"logit_row_twice",
       [](RaggedBatch& b) {
         b.logit_rows = {4, 4};
       },
       "logit row"},
      {"logits_size", [](RaggedBatch& b) { b.logit_rows = {4}; }, "logits"},
  };
}

class ForwardValidation : public ::testing::TestWithParam<Bad> {};

TEST_P(ForwardValidation, RefusesAndMovesNothing) {
  ModelRunner runner(SmallConfig(), 4, 1);
  const SlotHandle a = runner.Acquire();
  const SlotHandle b = runner.Acquire();
  ASSERT_EQ(a.slot() + b.slot(), 1);
  runner.Feed(a.slot(), 0, RandomTokens(70, runner.vocab(), 1), {70});
  runner.Feed(b.slot(), 0, RandomTokens(3, runner.vocab(), 2), {3});
  const Image before_a = runner.Export(a.slot());
  const Image before_b = runner.Export(b.slot());

  RaggedBatch batch;
  batch.tokens = {1, 2, 3, 4, 5, 6, 7};
  batch.seq_offsets = {0, 3, 5, 7};
  batch.slots = {a.slot(), b.slot(), -1};
  batch.start_positions = {70, 3, 0};
  batch.logit_rows = {2, 4};
  const RaggedBatch good = batch;
  GetParam().change(batch);
  Logits logits(2 * runner.vocab(), 7.0f);
  const absl::Status status = runner.model().Forward(batch, runner.slots(), absl::MakeSpan(logits));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().message));
  EXPECT_EQ(BitDifference(logits, Logits(logits.size(), 7.0f)), "");
  EXPECT_EQ(BitDifference(runner.Export(a.slot()), before_a), "");
  EXPECT_EQ(BitDifference(runner.Export(b.slot()), before_b), "");

  EXPECT_TRUE(runner.model().Forward(good, runner.slots(), absl::MakeSpan(logits)).ok());
  EXPECT_NE(BitDifference(runner.Export(a.slot()), before_a), "");
}

INSTANTIATE_TEST_SUITE_P(Batches, ForwardValidation, ::testing::ValuesIn(BadBatches()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(ForwardValidation, TakesEmptyBatches) {
  ModelRunner runner(SmallConfig(), 2, 1);
  const SlotHandle slot = runner.Acquire();
  RaggedBatch batch;
  EXPECT_TRUE(runner.model().Forward(batch, runner.slots(), {}).ok());
  batch.seq_offsets = {0, 0};
  batch.slots = {slot.slot()};
  batch.start_positions = {0};
  EXPECT_TRUE(runner.model().Forward(batch, runner.slots(), {}).ok());
  EXPECT_EQ(BitDifference(runner.Export(slot.slot()), Image(runner.slots().layout().bytes(), 0)),
            "");
}

TEST(ForwardValidation, RefusesSlotsOfAnotherLayout) {
  ModelRunner runner(SmallConfig(), 2, 1);
  ModelRunner other(SmallConfig({{"lru_width", 45}}), 2, 1);
  const SlotHandle slot = other.Acquire();
  RaggedBatch batch;
  batch.tokens = {1};
  batch.seq_offsets = {0, 1};
  batch.slots = {slot.slot()};
  batch.start_positions = {0};
  const absl::Status status = runner.model().Forward(batch, other.slots(), {});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("another layout"));
}

}  // namespace
}  // namespace reprise::models::testing
