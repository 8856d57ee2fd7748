#include "scheduler/internal/step_planner.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace reprise::scheduler {
namespace {

SchedulerOptions Options(int step_tokens, int chunk, int logit_rows = 256) {
  SchedulerOptions options;
  options.step_tokens = step_tokens;
  options.prefill_chunk_tokens = chunk;
  options.step_logit_rows = logit_rows;
  return options;
}

PlannerInput Decoding(bool writable = true) {
  PlannerInput input;
  input.rows_left = 1;
  input.decoding = true;
  input.writable = writable;
  return input;
}

PlannerInput Prefilling(int64_t rows, int tenant = 0, bool all_logits = false) {
  PlannerInput input;
  input.rows_left = rows;
  input.tenant = tenant;
  input.wants_all_logits = all_logits;
  return input;
}

// Plans step after step; prompts do not run out.
class Steps {
 public:
  Steps(std::vector<PlannerInput> running, const SchedulerOptions& options)
      : running_(std::move(running)), options_(options), planner_(options) {
    for (const PlannerInput& input : running_) {
      if (input.tenant >= static_cast<int>(tenants.size())) tenants.resize(input.tenant + 1);
    }
    served.resize(running_.size());
    longest_unserved.resize(running_.size());
  }

  // Rows by sequence.
  std::map<int, int> Next() {
    std::map<int, int> rows;
    for (PlannerInput& input : running_) ++input.unserved_steps;
    int total = 0, logits = 0;
    for (const PlannedRows& planned : planner_.Plan(running_, absl::MakeSpan(tenants))) {
      EXPECT_EQ(rows.count(planned.sequence), 0u) << "a sequence is planned twice";
      EXPECT_GT(planned.rows, 0);
      const PlannerInput& input = running_[planned.sequence];
      EXPECT_LE(planned.rows, input.rows_left);
      rows[planned.sequence] = planned.rows;
      served[planned.sequence] += planned.rows;
      total += planned.rows;
      logits += input.wants_all_logits ? planned.rows : planned.rows == input.rows_left;
    }
    EXPECT_LE(total, options_.step_tokens);
    EXPECT_LE(logits, options_.step_logit_rows);
    for (size_t i = 0; i < running_.size(); ++i) {
      if (rows.count(static_cast<int>(i)) > 0) running_[i].unserved_steps = 0;
      longest_unserved[i] = std::max(longest_unserved[i], running_[i].unserved_steps);
    }
    return rows;
  }

  std::vector<PlannerTenant> tenants;
  std::vector<int64_t> served, longest_unserved;

 private:
  std::vector<PlannerInput> running_;
  const SchedulerOptions options_;
  StepPlanner planner_;
};

std::map<int, int> PlanOnce(const std::vector<PlannerInput>& running,
                            const SchedulerOptions& options) {
  return Steps(running, options).Next();
}

TEST(StepPlannerTest, NothingToDoGivesAnEmptyPlan) {
  EXPECT_TRUE(PlanOnce({}, Options(64, 16)).empty());
  EXPECT_TRUE(PlanOnce({Prefilling(0)}, Options(64, 16)).empty());
  EXPECT_TRUE(PlanOnce({Decoding(false)}, Options(64, 16)).empty());
}

TEST(StepPlannerTest, DecodeComesBeforePrefillWithinTheBudget) {
  const std::vector<PlannerInput> running = {Prefilling(100), Decoding(), Decoding()};
  EXPECT_EQ(PlanOnce(running, Options(10, 10)), (std::map<int, int>{{0, 8}, {1, 1}, {2, 1}}));
  EXPECT_EQ(PlanOnce(running, Options(2, 2)), (std::map<int, int>{{1, 1}, {2, 1}}));
}

TEST(StepPlannerTest, ChunksFillTheBudgetInTurns) {
  EXPECT_EQ(PlanOnce({Prefilling(100)}, Options(64, 16)), (std::map<int, int>{{0, 64}}));
  EXPECT_EQ(PlanOnce({Prefilling(100), Prefilling(100)}, Options(64, 16)),
            (std::map<int, int>{{0, 32}, {1, 32}}));
  EXPECT_EQ(PlanOnce({Prefilling(100), Prefilling(5), Prefilling(100)}, Options(64, 16)),
            (std::map<int, int>{{0, 32}, {1, 5}, {2, 27}}));
}

TEST(StepPlannerTest, APausedSequenceSitsOut) {
  EXPECT_EQ(PlanOnce({Decoding(false), Decoding()}, Options(8, 8)), (std::map<int, int>{{1, 1}}));
}

TEST(StepPlannerTest, DecodingSequencesTakeTurnsUnderASmallBudget) {
  Steps steps(std::vector<PlannerInput>(5, Decoding()), Options(2, 2));
  for (int i = 0; i < 10; ++i) steps.Next();
  for (int64_t served : steps.served) EXPECT_NEAR(served, 4, 1);
  for (int64_t unserved : steps.longest_unserved) EXPECT_LE(unserved, 2);
}

TEST(StepPlannerTest, TenantsShareRowsHoweverManySequencesTheyHave) {
  std::vector<PlannerInput> running(9, Prefilling(1 << 20, 0));
  running.push_back(Prefilling(1 << 20, 1));
  Steps steps(running, Options(16, 8));
  for (int i = 0; i < 200; ++i) steps.Next();
  EXPECT_NEAR(steps.served[9], 200 * 16 / 2, 16);
}

TEST(StepPlannerTest, WeightsSetTheShares) {
  Steps steps({Prefilling(1 << 20, 0), Prefilling(1 << 20, 1), Prefilling(1 << 20, 2)},
              Options(64, 8));
  steps.tenants = {{1.0, 0}, {2.0, 0}, {5.0, 0}};
  for (int i = 0; i < 500; ++i) steps.Next();
  const double total = 500 * 64;
  EXPECT_NEAR(steps.served[0] / total, 1.0 / 8, 0.01);
  EXPECT_NEAR(steps.served[1] / total, 2.0 / 8, 0.01);
  EXPECT_NEAR(steps.served[2] / total, 5.0 / 8, 0.01);
}

TEST(StepPlannerTest, PrioritiesWeighBetweenTenantsAndRankWithinOne) {
  std::vector<PlannerInput> running = {Prefilling(1 << 20, 0), Prefilling(1 << 20, 1)};
  running[0].priority = Priority::kHigh;
  Steps between(running, Options(64, 8));
  for (int i = 0; i < 500; ++i) between.Next();
  EXPECT_NEAR(static_cast<double>(between.served[0]) / between.served[1], 4.0, 0.1);

  running[1].tenant = 0;
  Steps within(running, Options(64, 8));
  EXPECT_EQ(within.Next(), (std::map<int, int>{{0, 64}}));
  running[0].rows_left = 20;
  EXPECT_EQ(PlanOnce(running, Options(64, 8)), (std::map<int, int>{{0, 20}, {1, 44}}));
}

TEST(StepPlannerTest, DecodeRowsCountInATenantsService) {
  std::vector<PlannerInput> running(8, Decoding());
  running.push_back(Prefilling(1 << 20, 0));
  running.push_back(Prefilling(1 << 20, 1));
  Steps steps(running, Options(24, 4));
  for (int i = 0; i < 300; ++i) steps.Next();
  // 24 rows for two tenants: 8 decode and 4 prompt rows here, 12 prompt rows there.
  EXPECT_NEAR(static_cast<double>(steps.served[8]) / 300, 4.0, 0.3);
  EXPECT_NEAR(static_cast<double>(steps.served[9]) / 300, 12.0, 0.3);
}

TEST(StepPlannerTest, RowsThatWantLogitsStayWithinTheLogitBudget) {
  const std::vector<PlannerInput> running = {Decoding(), Prefilling(100, 0, true), Prefilling(9)};
  // The third may go on without logits, but not to its end.
  EXPECT_EQ(PlanOnce(running, Options(64, 32, 4)), (std::map<int, int>{{0, 1}, {1, 3}, {2, 8}}));
}

TEST(StepPlannerTest, AnOverduePromptLeavesHalfOfTheBudget) {
  std::vector<PlannerInput> running(6, Decoding());
  running.push_back(Prefilling(100));
  running.back().unserved_steps = kMaxUnservedSteps - 1;  // one more with the step
  const std::map<int, int> rows = PlanOnce(running, Options(8, 8));
  EXPECT_EQ(rows, (std::map<int, int>{{0, 1}, {1, 1}, {2, 1}, {3, 1}, {6, 4}}));
}

TEST(StepPlannerTest, EverySequenceGetsARowWithinTheBound) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    std::mt19937 random(seed);
    std::vector<PlannerInput> running;
    const int count = 1 + random() % 30;
    for (int i = 0; i < count; ++i) {
      PlannerInput input = random() % 3 > 0 ? Decoding() : Prefilling(1 << 20, 0);
      input.wants_all_logits = !input.decoding && random() % 4 == 0;
      input.tenant = static_cast<int>(random() % 4);
      input.priority = static_cast<Priority>(random() % kNumPriorities);
      running.push_back(input);
    }
    const int budget = 1 + static_cast<int>(random() % 12);
    Steps steps(running, Options(budget, 1 + static_cast<int>(random() % budget),
                                 1 + static_cast<int>(random() % 12)));
    for (PlannerTenant& tenant : steps.tenants) tenant.weight = 0.01 + random() % 100;
    for (int i = 0; i < 300; ++i) steps.Next();
    for (int i = 0; i < count; ++i) {
      EXPECT_LE(steps.longest_unserved[i], kMaxUnservedSteps + count) << "seed " << seed;
    }
  }
}

}  // namespace
}  // namespace reprise::scheduler
