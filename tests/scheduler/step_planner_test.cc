#include "scheduler/internal/step_planner.h"

#include <gtest/gtest.h>

#include <map>

namespace reprise::scheduler {
namespace {

SchedulerOptions Options(int step_tokens, int chunk, int logit_rows = 256) {
  SchedulerOptions options;
  options.step_tokens = step_tokens;
  options.prefill_chunk_tokens = chunk;
  options.step_logit_rows = logit_rows;
  return options;
}

PlannerInput Decoding(bool writable = true) { return {1, true, writable, false, 0}; }
PlannerInput Prefilling(int64_t rows, int tenant = 0, bool all_logits = false) {
  return {rows, false, true, all_logits, tenant};
}

std::map<int, int> RowsOf(const std::vector<PlannedRows>& plan) {
  std::map<int, int> rows;
  for (const PlannedRows& planned : plan) {
    EXPECT_EQ(rows.count(planned.sequence), 0u) << "a sequence is planned twice";
    rows[planned.sequence] = planned.rows;
  }
  return rows;
}

TEST(StepPlannerTest, NothingToDoGivesAnEmptyPlan) {
  EXPECT_TRUE(PlanStep({}, Options(64, 16), 3).empty());
  EXPECT_TRUE(PlanStep(std::vector{Prefilling(0)}, Options(64, 16), 3).empty());
}

TEST(StepPlannerTest, DecodeComesBeforePrefillWithinTheBudget) {
  const std::vector<PlannerInput> running = {Prefilling(100), Decoding(), Decoding()};
  EXPECT_EQ(RowsOf(PlanStep(running, Options(10, 16), 0)),
            (std::map<int, int>{{0, 8}, {1, 1}, {2, 1}}));
  EXPECT_EQ(RowsOf(PlanStep(running, Options(64, 16), 0)),
            (std::map<int, int>{{0, 16}, {1, 1}, {2, 1}}));
}

TEST(StepPlannerTest, APromptAloneTakesTheWholeBudget) {
  EXPECT_EQ(RowsOf(PlanStep(std::vector{Prefilling(100)}, Options(64, 16), 0)),
            (std::map<int, int>{{0, 64}}));
}

TEST(StepPlannerTest, APausedSequenceSitsOut) {
  EXPECT_EQ(RowsOf(PlanStep(std::vector{Decoding(false), Decoding()}, Options(8, 8), 0)),
            (std::map<int, int>{{1, 1}}));
}

TEST(StepPlannerTest, EveryDecodingSequenceComesFirstInItsTurn) {
  const std::vector<PlannerInput> running(5, Decoding());
  std::map<int, int> served;
  for (uint64_t turn = 0; turn < 10; ++turn) {
    for (const PlannedRows& rows : PlanStep(running, Options(2, 2), turn)) ++served[rows.sequence];
  }
  for (int i = 0; i < 5; ++i) EXPECT_EQ(served[i], 4) << i;
}

TEST(StepPlannerTest, TenantsTakeTurnsHoweverManySequencesTheyHave) {
  std::vector<PlannerInput> running(9, Prefilling(100, 0));
  running.push_back(Prefilling(100, 1));
  std::map<int, int> rows_by_tenant;
  for (uint64_t turn = 0; turn < 8; ++turn) {
    for (const PlannedRows& rows : PlanStep(running, Options(16, 8), turn)) {
      rows_by_tenant[running[rows.sequence].tenant] += rows.rows;
    }
  }
  EXPECT_EQ(rows_by_tenant[0], rows_by_tenant[1]);
}

TEST(StepPlannerTest, RowsThatWantLogitsStayWithinTheLogitBudget) {
  const std::vector<PlannerInput> running = {Decoding(), Prefilling(100, 0, true), Prefilling(9)};
  EXPECT_EQ(RowsOf(PlanStep(running, Options(64, 32, 4), 0)), (std::map<int, int>{{0, 1}, {1, 3}}));
}

}  // namespace
}  // namespace reprise::scheduler
