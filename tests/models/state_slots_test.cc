#include "models/state_slots.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "kernels/device_queue.h"
#include "models/state_layout.h"

namespace reprise::models {
namespace {

using kernels::DType;

StateLayout SmallLayout() {
  StateLayout layout;
  layout.Add(0, StateRole::kConvTail, DType::kF32, {3, 5});
  layout.Add(0, StateRole::kRgLru, DType::kF32, {3, 5});
  layout.Add(1, StateRole::kWindowKeys, DType::kBF16, {2, 1, 4, 64});
  layout.Add(1, StateRole::kWindowValues, DType::kBF16, {2, 1, 64, 4});
  return layout;
}

TEST(StateLayout, OffsetsFollowTheOrder) {
  const StateLayout layout = SmallLayout();
  ASSERT_EQ(layout.tensors().size(), 4u);
  EXPECT_EQ(layout.tensors()[0].Name(), "layers.0.conv_tail");
  EXPECT_EQ(layout.tensors()[1].Name(), "layers.0.rg_lru");
  EXPECT_EQ(layout.tensors()[2].Name(), "layers.1.kv_window.k");
  EXPECT_EQ(layout.tensors()[3].Name(), "layers.1.kv_window.v");
  EXPECT_EQ(layout.tensors()[1].offset, 60u);
  EXPECT_EQ(layout.tensors()[2].offset, 120u);
  EXPECT_EQ(layout.tensors()[3].offset, 120u + 1024);
  EXPECT_EQ(layout.bytes(), 120u + 2048);
}

TEST(StateLayout, DigestFollowsEverything) {
  const auto digest = [](int layer, StateRole role, DType dtype, std::vector<int64_t> shape) {
    StateLayout layout;
    layout.Add(layer, role, dtype, std::move(shape));
    return layout.Digest();
  };
  const std::set<std::string> digests = {
      StateLayout().Digest(),
      StateLayout(kernels::Device::kCuda).Digest(),
      digest(0, StateRole::kRgLru, DType::kF32, {3, 5}),
      digest(1, StateRole::kRgLru, DType::kF32, {3, 5}),
      digest(0, StateRole::kConvTail, DType::kF32, {3, 5}),
      digest(0, StateRole::kRgLru, DType::kI32, {3, 5}),
      digest(0, StateRole::kRgLru, DType::kF32, {5, 3}),
      digest(0, StateRole::kRgLru, DType::kF32, {15}),
      digest(0, StateRole::kRgLru, DType::kF32, {1, 3, 5}),
      SmallLayout().Digest(),
  };
  EXPECT_EQ(digests.size(), 10u);
  EXPECT_EQ(SmallLayout().Digest(), SmallLayout().Digest());
}

TEST(StateLayout, DigestIsFrozen) {
  if (NumericsId(kernels::Device::kCpu) != "cpu-grid64-v1") {
    GTEST_SKIP() << "another kind of processor: " << NumericsId(kernels::Device::kCpu);
  }
  // Snapshots name this digest: a change of it orphans them, and must be meant.
  EXPECT_EQ(SmallLayout().Digest(),
            "daec061b47f5a47ee99134bbb22123df6cd564d63d3b9d4f55a1e34956cdb067");
}

// As SmallLayout, in the whole vectors that CUDA wants; the largest tensor takes several blocks.
StateLayout EvenLayout(kernels::Device device) {
  StateLayout layout(device);
  layout.Add(0, StateRole::kConvTail, DType::kF32, {3, 8});
  layout.Add(0, StateRole::kRgLru, DType::kF32, {3, 20});
  layout.Add(1, StateRole::kWindowKeys, DType::kBF16, {3, 1, 64, 256});
  layout.Add(1, StateRole::kWindowValues, DType::kBF16, {2, 1, 64, 4});
  return layout;
}

class StateSlotsTest : public ::testing::TestWithParam<kernels::Device> {
 protected:
  void SetUp() override {
    pool_ = kernels::ThreadPool::Create(1).value();
    kernels::Context context = {GetParam(), pool_.get()};
    if (GetParam() == kernels::Device::kCuda) {
      absl::StatusOr<std::unique_ptr<kernels::DeviceQueue>> queue = kernels::DeviceQueue::Create();
      if (!queue.ok()) GTEST_SKIP() << queue.status();
      queue_ = *std::move(queue);
      context.queue = queue_.get();
    }
    const StateLayout layout =
        GetParam() == kernels::Device::kCpu ? SmallLayout() : EvenLayout(GetParam());
    slots_ = StateSlots::Create(layout, 4, context).value();
  }
  void TearDown() override {
    if (slots_ == nullptr) return;
    EXPECT_TRUE(slots_->CheckIntegrity().ok());
  }

  std::vector<uint8_t> Pattern(int seed) const {
    std::vector<uint8_t> image(slots_->layout().bytes());
    for (size_t i = 0; i < image.size(); ++i) {
      image[i] = static_cast<uint8_t>(i * 31 + seed * 7 + (i >> 8));
    }
    return image;
  }
  std::vector<uint8_t> Export(int slot) const {
    std::vector<uint8_t> image(slots_->layout().bytes());
    EXPECT_TRUE(slots_->Export(slot, absl::MakeSpan(image)).ok());
    return image;
  }

  std::unique_ptr<kernels::ThreadPool> pool_;
  std::unique_ptr<kernels::DeviceQueue> queue_;
  std::unique_ptr<StateSlots> slots_;
};

INSTANTIATE_TEST_SUITE_P(Devices, StateSlotsTest,
                         ::testing::Values(kernels::Device::kCpu, kernels::Device::kCuda),
                         [](const auto& info) {
                           return info.param == kernels::Device::kCpu ? "cpu" : "cuda";
                         });

TEST(StateSlots, APoolAfterAnotherIsNotTakenForIt) {
  kernels::Context context;
  std::set<uint64_t> ids;
  for (int i = 0; i < 10; ++i) {
    auto slots = StateSlots::Create(SmallLayout(), 1, context);
    ASSERT_TRUE(slots.ok()) << slots.status();
    EXPECT_TRUE(ids.insert((*slots)->id()).second);
  }
}

TEST_P(StateSlotsTest, HandsOutEachSlotOnce) {
  std::vector<SlotHandle> handles;
  std::set<int> seen;
  for (int i = 0; i < 4; ++i) {
    handles.push_back(slots_->Acquire().value());
    EXPECT_TRUE(seen.insert(handles.back().slot()).second);
    EXPECT_EQ(slots_->free_slots(), 3 - i);
    EXPECT_TRUE(slots_->held(handles.back().slot()));
    EXPECT_TRUE(slots_->CheckIntegrity().ok());
  }
  EXPECT_EQ(slots_->Acquire().status().code(), absl::StatusCode::kResourceExhausted);
  const int freed = handles[2].slot();
  handles[2].Reset();
  EXPECT_FALSE(handles[2].valid());
  EXPECT_FALSE(slots_->held(freed));
  handles[2] = slots_->Acquire().value();
  EXPECT_EQ(handles[2].slot(), freed);
  EXPECT_EQ(handles[2].generation(), 2u);
  EXPECT_EQ(handles[1].generation(), 1u);
}

TEST_P(StateSlotsTest, AcquiredSlotsAreZero) {
  SlotHandle handle = slots_->Acquire().value();
  ASSERT_TRUE(slots_->Import(handle.slot(), Pattern(1)).ok());
  handle.Reset();
  handle = slots_->Acquire().value();
  EXPECT_EQ(Export(handle.slot()), std::vector<uint8_t>(slots_->layout().bytes(), 0));
}

TEST_P(StateSlotsTest, HandlesMove) {
  SlotHandle a = slots_->Acquire().value();
  const int slot = a.slot();
  SlotHandle b = std::move(a);
  EXPECT_FALSE(a.valid());  // NOLINT: moved-from is empty by contract
  EXPECT_EQ(b.slot(), slot);
  SlotHandle c = slots_->Acquire().value();
  c = std::move(b);  // gives its own slot back
  EXPECT_EQ(c.slot(), slot);
  EXPECT_EQ(slots_->free_slots(), 3);
  SlotHandle& alias = c;
  c = std::move(alias);
  EXPECT_EQ(c.slot(), slot);
  EXPECT_EQ(slots_->free_slots(), 3);
  c.Reset();
  c.Reset();
  EXPECT_EQ(slots_->free_slots(), 4);
}

TEST_P(StateSlotsTest, ImagesAreInLayoutOrderAndSlotsApart) {
  const SlotHandle a = slots_->Acquire().value();
  const SlotHandle b = slots_->Acquire().value();
  const SlotHandle c = slots_->Acquire().value();
  ASSERT_TRUE(slots_->Import(a.slot(), Pattern(1)).ok());
  ASSERT_TRUE(slots_->Import(b.slot(), Pattern(2)).ok());
  EXPECT_EQ(Export(a.slot()), Pattern(1));
  EXPECT_EQ(Export(b.slot()), Pattern(2));
  EXPECT_EQ(Export(c.slot()), std::vector<uint8_t>(slots_->layout().bytes(), 0));
  for (size_t i = 0; i < slots_->layout().tensors().size(); ++i) {
    const StateTensor& tensor = slots_->layout().tensors()[i];
    const auto* base = static_cast<const uint8_t*>(slots_->tensor(static_cast<int>(i)));
    if (GetParam() != kernels::Device::kCpu) break;
    const int64_t stride =
        slots_->slot_stride(static_cast<int>(i)) * kernels::DTypeBytes(tensor.dtype);
    EXPECT_EQ(
        std::memcmp(base + b.slot() * stride, Pattern(2).data() + tensor.offset, tensor.bytes), 0);
  }
  ASSERT_TRUE(slots_->Copy(a.slot(), c.slot()).ok());
  ASSERT_TRUE(slots_->Copy(a.slot(), a.slot()).ok());
  ASSERT_TRUE(slots_->Zero(a.slot()).ok());
  EXPECT_EQ(Export(c.slot()), Pattern(1));
  EXPECT_EQ(Export(b.slot()), Pattern(2));
  EXPECT_EQ(Export(a.slot()), std::vector<uint8_t>(slots_->layout().bytes(), 0));
}

TEST_P(StateSlotsTest, TransfersHoldTheStateOfTheirBeginning) {
  const SlotHandle a = slots_->Acquire().value();
  const SlotHandle b = slots_->Acquire().value();
  ASSERT_TRUE(slots_->Import(a.slot(), Pattern(1)).ok());
  for (int round = 0; round < 3; ++round) {
    StateTransfer out = slots_->BeginExport(a.slot()).value();
    StateTransfer in = slots_->BeginImport(Pattern(10 + round)).value();
    ASSERT_TRUE(slots_->Zero(a.slot()).ok());
    std::vector<uint8_t> image(slots_->layout().bytes());
    ASSERT_TRUE(slots_->FinishImport(std::move(in), b.slot()).ok());
    ASSERT_TRUE(
        slots_->FinishImport(slots_->BeginImport(Pattern(round + 2)).value(), a.slot()).ok());
    ASSERT_TRUE(slots_->FinishExport(std::move(out), absl::MakeSpan(image)).ok());
    EXPECT_EQ(image, Pattern(round + 1));
    EXPECT_EQ(Export(b.slot()), Pattern(10 + round));
  }
  EXPECT_EQ(Export(a.slot()), Pattern(4));
}

TEST_P(StateSlotsTest, TransfersAreBoundedAndComeBack) {
  const SlotHandle slot = slots_->Acquire().value();
  ASSERT_TRUE(slots_->Import(slot.slot(), Pattern(1)).ok());
  std::vector<StateTransfer> transfers;
  for (int i = 0; i < StateSlots::kTransfers; ++i) {
    transfers.push_back(slots_->BeginExport(slot.slot()).value());
  }
  EXPECT_EQ(slots_->BeginExport(slot.slot()).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(slots_->BeginImport(Pattern(2)).status().code(), absl::StatusCode::kResourceExhausted);
  transfers.pop_back();  // dropped halfway
  transfers.push_back(slots_->BeginImport(Pattern(2)).value());
  std::vector<uint8_t> short_image(3);
  EXPECT_EQ(slots_->FinishExport(std::move(transfers[0]), absl::MakeSpan(short_image)).code(),
            absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(slots_->FinishImport(std::move(transfers.back()), slot.slot()).ok());
  EXPECT_EQ(Export(slot.slot()), Pattern(2));
  EXPECT_EQ(slots_->BeginExport(2).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(slots_->BeginImport(short_image).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_P(StateSlotsTest, ForksOntoMany) {
  const SlotHandle trunk = slots_->Acquire().value();
  const SlotHandle a = slots_->Acquire().value(), b = slots_->Acquire().value();
  const SlotHandle other = slots_->Acquire().value();
  ASSERT_TRUE(slots_->Import(trunk.slot(), Pattern(1)).ok());
  ASSERT_TRUE(slots_->Import(other.slot(), Pattern(2)).ok());
  ASSERT_TRUE(slots_->Copy(trunk.slot(), {a.slot(), trunk.slot(), b.slot()}).ok());
  for (const SlotHandle* handle : {&trunk, &a, &b}) EXPECT_EQ(Export(handle->slot()), Pattern(1));
  EXPECT_EQ(Export(other.slot()), Pattern(2));
}

TEST_P(StateSlotsTest, RefusesOtherSlotsAndSizes) {
  const SlotHandle held = slots_->Acquire().value();
  ASSERT_TRUE(slots_->Import(held.slot(), Pattern(3)).ok());
  const int other = (held.slot() + 1) % 4;
  std::vector<uint8_t> image = Pattern(1);
  for (const int slot : {-1, 4, 1000, other}) {
    EXPECT_EQ(slots_->Export(slot, absl::MakeSpan(image)).code(),
              absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(slots_->Import(slot, image).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(slots_->Copy(held.slot(), slot).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(slots_->Copy(slot, held.slot()).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(slots_->Zero(slot).code(), absl::StatusCode::kInvalidArgument);
  }
  for (const size_t size : {size_t{0}, image.size() - 1, image.size() + 1}) {
    std::vector<uint8_t> wrong(size, 9);
    EXPECT_EQ(slots_->Import(held.slot(), wrong).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(slots_->Export(held.slot(), absl::MakeSpan(wrong)).code(),
              absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(wrong, std::vector<uint8_t>(size, 9));
  }
  EXPECT_EQ(Export(held.slot()), Pattern(3));
}

TEST(StateSlots, RefusesWhatCannotBeHad) {
  const auto pool = kernels::ThreadPool::Create(1).value();
  const kernels::Context context = {kernels::Device::kCpu, pool.get()};
  EXPECT_EQ(StateSlots::Create(SmallLayout(), 0, context).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(StateSlots::Create(SmallLayout(), -5, context).status().code(),
            absl::StatusCode::kInvalidArgument);
  StateLayout huge;
  huge.Add(0, StateRole::kRgLru, DType::kF32, {int64_t{1} << 30, int64_t{1} << 20});
  EXPECT_EQ(StateSlots::Create(huge, 1 << 12, context).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(StateSlots::Create(huge, 1 << 20, context).status().code(),
            absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace reprise::models
