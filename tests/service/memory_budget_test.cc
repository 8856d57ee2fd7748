#include "service/memory_budget.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "models/state_slots.h"
#include "service/served_model.h"

namespace reprise::service {
namespace {

using kernels::Device;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr int64_t kGiB = int64_t{1} << 30;
constexpr int kMoving = models::StateSlots::kTransfers;

// 1000 of weights, 200 of steps, a vocabulary of 5 and states of `state_bytes`.
PlannedModel Model(const std::string& name, size_t state_bytes = 50) {
  return {name, {1000, 200, state_bytes, 5}};
}

// Nothing but the models takes memory; a step has at most 100 tokens and 10 rows of logits.
ServerOptions Bare(int64_t memory_bytes, int slots = 0) {
  ServerOptions options;
  options.store.kind = StoreSettings::Kind::kDisk;
  options.store.prefix_spill_bytes = 0;
  ComputeSettings& compute = options.compute;
  compute.memory_bytes = memory_bytes;
  compute.slots = slots;
  compute.step_tokens = 100;
  compute.step_logit_rows = 10;
  compute.prefix_cache_bytes = compute.max_request_bytes = compute.max_parked_bytes = 0;
  return options;
}
constexpr int64_t kFixed = 1000 + 200 + 10 * 5 * 4;  // of Model, without states

std::string Message(const absl::StatusOr<MemoryPlan>& plan) {
  EXPECT_TRUE(absl::IsResourceExhausted(plan.status())) << plan.status();
  return std::string(plan.status().message());
}

TEST(MemoryBudgetTest, ExactlyEnoughIsEnough) {
  const int64_t needed = 2 * (kFixed + (4 + kMoving) * 50);
  const std::vector<PlannedModel> models = {Model("a"), Model("b")};
  const auto plan = PlanMemory(Bare(needed, 4), Device::kCpu, 0, models);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->host_bytes, needed);
  EXPECT_EQ(plan->device_bytes, 0);
  EXPECT_THAT(plan->slots, ElementsAre(4, 4));
  EXPECT_THAT(Message(PlanMemory(Bare(needed - 1, 4), Device::kCpu, 0, models)),
              StartsWith(absl::StrCat("--memory-bytes: ", needed - 1, " bytes are not enough, ",
                                      needed, " are needed: 1000 of weights of model a, ")));
}

TEST(MemoryBudgetTest, TheErrorNamesEachFlagThatTakesAPart) {
  ServerOptions options = Bare(1, 4);
  options.compute.prefix_cache_bytes = 11;
  options.compute.max_request_bytes = 12;
  options.compute.max_parked_bytes = 13;
  options.store.prefix_spill_bytes = 14;
  options.store.kind = StoreSettings::Kind::kRedis;
  options.store.host_cache_bytes = 15;
  options.store.write_behind_bytes = 16;
  EXPECT_THAT(
      Message(PlanMemory(options, Device::kCpu, 0, {Model("a")})),
      AllOf(HasSubstr("11 of --prefix-cache-bytes of model a"),
            HasSubstr("12 of --max-request-bytes of model a"),
            HasSubstr("63 of --max-parked-bytes of model a"),
            HasSubstr("14 of --prefix-spill-bytes"), HasSubstr("15 of --host-cache-bytes"),
            HasSubstr("16 of --write-behind-bytes"), HasSubstr("200 of 4 --slots of model a"),
            HasSubstr("200 of --step-tokens of model a"),
            HasSubstr("200 of --step-logit-rows of model a")));
}

TEST(MemoryBudgetTest, SlotsThatNobodyChoseAreAsManyAsFit) {
  // Room for 10 slots of 50 between the two, and a rest.
  const int64_t limit = 2 * (kFixed + kMoving * 50) + 10 * 50 + 49;
  const auto plan = PlanMemory(Bare(limit), Device::kCpu, 0, {Model("a"), Model("b")});
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_THAT(plan->slots, ElementsAre(5, 5));
  EXPECT_LE(plan->host_bytes, limit);
  EXPECT_GT(plan->host_bytes, limit - 2 * 50);
}

TEST(MemoryBudgetTest, AModelThatNeedsLittleLeavesItsShareToTheOthers) {
  const int64_t limit = 2 * kFixed + kMoving * (50 + 1000) + 32 * 50 + 7 * 1000 + 999;
  const auto plan = PlanMemory(Bare(limit), Device::kCpu, 0, {Model("a", 1000), Model("b", 50)});
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_THAT(plan->slots, ElementsAre(7, 32));
  EXPECT_LE(plan->host_bytes, limit);
}

TEST(MemoryBudgetTest, OneSlotEachIsTheLeast) {
  const int64_t least = 2 * (kFixed + (1 + kMoving) * 50);
  const std::vector<PlannedModel> models = {Model("a"), Model("b")};
  EXPECT_THAT(PlanMemory(Bare(least), Device::kCpu, 0, models)->slots, ElementsAre(1, 1));
  EXPECT_THAT(Message(PlanMemory(Bare(least - 1), Device::kCpu, 0, models)),
              HasSubstr("of 1 --slots of model b"));
}

TEST(MemoryBudgetTest, RowsOfLogitsFollowTheSlots) {
  ServerOptions options = Bare(0, 80);
  options.compute.step_logit_rows = 0;
  const auto plan = PlanMemory(options, Device::kCpu, 0, {Model("a")});
  EXPECT_EQ(plan->host_bytes, 1200 + 80 * 5 * 4 + (80 + kMoving) * 50);
  options.compute.slots = 2;
  EXPECT_EQ(PlanMemory(options, Device::kCpu, 0, {Model("a")})->host_bytes,
            1200 + 64 * 5 * 4 + (2 + kMoving) * 50);
}

TEST(MemoryBudgetTest, WithoutALimitSlotsAreTheDefault) {
  EXPECT_THAT(PlanMemory(Bare(0), Device::kCpu, 0, {Model("a", size_t{1} << 60)})->slots,
              ElementsAre(32));
}

TEST(MemoryBudgetTest, SumsBeyondAllNumbersAreTooMuch) {
  ServerOptions options = Bare(kGiB);
  options.compute.prefix_cache_bytes = options.compute.max_request_bytes =
      options.compute.max_parked_bytes = std::numeric_limits<int64_t>::max();
  Message(PlanMemory(options, Device::kCpu, 0, {Model("a")}));
  options.compute.memory_bytes = 0;
  EXPECT_TRUE(PlanMemory(options, Device::kCpu, 0, {Model("a")}).ok());
}

TEST(MemoryBudgetTest, AStoreInMemoryNeedsABoundOfItsOwn) {
  ServerOptions options = Bare(kGiB);
  options.store.kind = StoreSettings::Kind::kMemory;
  const auto plan = PlanMemory(options, Device::kCpu, 0, {Model("a")});
  EXPECT_TRUE(absl::IsInvalidArgument(plan.status()));
  EXPECT_THAT(std::string(plan.status().message()), StartsWith("--store-max-bytes: "));
  options.store.max_bytes = kGiB;
  EXPECT_THAT(Message(PlanMemory(options, Device::kCpu, 0, {Model("a")})),
              HasSubstr("1073741824 of --store-max-bytes"));
  options.store.max_bytes = 1000;
  EXPECT_TRUE(PlanMemory(options, Device::kCpu, 0, {Model("a")}).ok());
}

TEST(MemoryBudgetTest, AGpuHasABudgetOfItsOwn) {
  ServerOptions options = Bare(3 * kMoving * 50 + 77, 4);
  options.store.prefix_spill_bytes = 77;
  const int64_t scratch = kernels::DeviceQueue::kScratchBytes;
  const int64_t each = kFixed + (4 + kMoving) * 50 + scratch;
  options.compute.device_memory_bytes = 3 * each;
  const std::vector<PlannedModel> models = {Model("a"), Model("b"), Model("c")};
  const auto plan = PlanMemory(options, Device::kCuda, 0, models);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->device_bytes, 3 * each);
  EXPECT_EQ(plan->host_bytes, options.compute.memory_bytes);
  options.compute.device_memory_bytes -= 1;
  EXPECT_THAT(Message(PlanMemory(options, Device::kCuda, 0, models)),
              StartsWith("--device-memory-bytes: "));
  options.compute.device_memory_bytes += 1;
  options.compute.memory_bytes -= 1;
  EXPECT_THAT(Message(PlanMemory(options, Device::kCuda, 0, models)),
              StartsWith("--memory-bytes: "));
  options.compute.memory_bytes = 0;
  const absl::Status on_cpu = PlanMemory(options, Device::kCpu, 0, models).status();
  EXPECT_TRUE(absl::IsInvalidArgument(on_cpu));
  EXPECT_THAT(std::string(on_cpu.message()), StartsWith("--device-memory-bytes: "));
}

TEST(MemoryBudgetTest, ModelsOnAGpuShareWhatIsFree) {
  // Nine tenths: three models, and 30 slots of 1 MiB for each.
  constexpr size_t kState = 1 << 20;
  const int64_t scratch = kernels::DeviceQueue::kScratchBytes;
  const int64_t wanted = 3 * (kFixed + scratch + (30 + kMoving) * int64_t{kState});
  const auto plan = PlanMemory(Bare(0), Device::kCuda, wanted * 10 / 9 + 10,
                               {Model("a", kState), Model("b", kState), Model("c", kState)});
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_THAT(plan->slots, ElementsAre(30, 30, 30));
  EXPECT_THAT(PlanMemory(Bare(0), Device::kCuda, 100 * kGiB, {Model("a", kState)})->slots,
              ElementsAre(100))
      << "no more than a step has tokens";
}

TEST(MemoryBudgetTest, AChosenBudgetOfAGpuCountsWhateverIsFree) {
  constexpr size_t kState = 1 << 20;
  const int64_t scratch = kernels::DeviceQueue::kScratchBytes;
  ServerOptions options = Bare(0);
  options.compute.device_memory_bytes = kFixed + scratch + (7 + kMoving) * int64_t{kState} + 99;
  for (const int64_t free_bytes : {int64_t{0}, 100 * kGiB}) {
    const auto plan = PlanMemory(options, Device::kCuda, free_bytes, {Model("a", kState)});
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_THAT(plan->slots, ElementsAre(7)) << free_bytes;
    EXPECT_EQ(plan->device_bytes, options.compute.device_memory_bytes - 99);
    EXPECT_EQ(plan->host_bytes, kMoving * int64_t{kState}) << "pinned, for states on their way";
  }
}

TEST(MemoryBudgetTest, AGpuWithTooLittleFreeIsRefused) {
  const int64_t least = kFixed + kernels::DeviceQueue::kScratchBytes + (1 + kMoving) * 50;
  // Nine tenths of it are just enough, and just not.
  const int64_t enough = (least * 10 + 8) / 9;
  EXPECT_THAT(PlanMemory(Bare(0), Device::kCuda, enough, {Model("a")})->slots, ElementsAre(1));
  EXPECT_THAT(Message(PlanMemory(Bare(0), Device::kCuda, enough - 2, {Model("a")})),
              AllOf(StartsWith("--device-memory-bytes: "), HasSubstr("of 1 --slots of model a")));
}

}  // namespace
}  // namespace reprise::service
