// The promise of the numerics contract for whole models: logits and states have the same bits
// however a text is cut into steps, whoever shares them, with any number of threads, and over
// export, import and copies.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "tests/models/testing/model_runner.h"

namespace reprise::models::testing {
namespace {

constexpr int kText = 200;

struct Case {
  std::string name;
  nlohmann::json changes;
  std::string dtype = "F32";
  kernels::Device device = kernels::Device::kCpu;
  WeightFormat format = WeightFormat::kCheckpoint;
};

// A base row, then one change per row. The windows are shorter than the text, but for one.
std::vector<Case> Cases() {
  std::vector<Case> cases = {
      {"base", nlohmann::json::object()},
      {"window_24", {{"attention_window_size", 24}}},
      {"window_64", {{"attention_window_size", 64}}},
      {"window_1", {{"attention_window_size", 1}}},
      {"window_beyond_text", {{"attention_window_size", 500}}},
      {"kv_heads_and_bias",
       {{"num_key_value_heads", 3}, {"attention_bias", true}, {"head_dim", 16}}},
      {"conv_8", {{"conv1d_width", 8}}},
      {"conv_1", {{"conv1d_width", 1}}},
      {"attention_first", {{"block_types", {"attention", "recurrent"}}, {"num_hidden_layers", 4}}},
      {"untied_uncapped", {{"tie_word_embeddings", false}, {"logits_soft_cap", 0}}},
      {"mixed_dtypes", {{"attention_window_size", 70}}, "mixed"},
      {"fp8", {{"attention_window_size", 70}}, "BF16", kernels::Device::kCpu, WeightFormat::kFp8},
  };
  const size_t count = cases.size();
  for (size_t i = 0; i < count; ++i) {
    Case cuda = cases[i];
    cuda.name += "_cuda";
    cuda.device = kernels::Device::kCuda;
    // Heads of 16 and whole vectors of channels.
    cuda.changes["hidden_size"] = 48;
    cuda.changes["lru_width"] = 48;
    cuda.changes["intermediate_size"] = 112;
    cases.push_back(cuda);
    // Sizes of which the recurrent part of a decode step is one kernel.
    Case step = cuda;
    step.name += "_one_step";
    step.changes["hidden_size"] = 192;
    step.changes["lru_width"] = 192;
    step.changes["intermediate_size"] = 1280;
    if (!step.changes.contains("head_dim")) step.changes["head_dim"] = 32;
    cases.push_back(step);
  }
  // Inputs beyond one segment of a product's sum, and heads as large as they come.
  cases.push_back({"wide_cuda",
                   {{"hidden_size", 1088},
                    {"lru_width", 1536},
                    {"intermediate_size", 3200},
                    {"num_attention_heads", 6},
                    {"head_dim", 256}},
                   "BF16",
                   kernels::Device::kCuda});
  cases.push_back(cases.back());
  cases.back().name = "wide_fp8_cuda";
  cases.back().format = WeightFormat::kFp8;
  return cases;
}

class ForwardExactness : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    const Case& c = GetParam();
    if (c.device == kernels::Device::kCuda && !HasCuda()) GTEST_SKIP() << "no CUDA device";
    runner_ = std::make_unique<ModelRunner>(SmallConfig(c.changes), 20, 2, 1, c.dtype, c.device,
                                            c.format);
    text_ = RandomTokens(kText, runner_->vocab(), 7);
    const SlotHandle slot = runner_->Acquire();
    logits_ = runner_->Feed(slot.slot(), 0, text_, {kText});
    state_ = runner_->Export(slot.slot());
  }
  void TearDown() override {
    if (runner_ == nullptr) return;
    const absl::Status status = runner_->slots().CheckIntegrity();
    EXPECT_TRUE(status.ok()) << status;
  }

  Logits Rows(int64_t begin, int64_t end) const {
    return Slice(logits_, begin * vocab(), end * vocab());
  }
  int64_t vocab() const { return runner_->vocab(); }

  void ExpectChunks(const std::vector<int>& chunks, const std::string& what) {
    const SlotHandle slot = runner_->Acquire();
    const Logits logits = runner_->Feed(slot.slot(), 0, text_, chunks);
    EXPECT_EQ(BitDifference(logits, logits_), "") << what;
    EXPECT_EQ(BitDifference(runner_->Export(slot.slot()), state_), "") << what;
  }

  std::unique_ptr<ModelRunner> runner_;
  std::vector<int32_t> text_;
  Logits logits_;  // of the whole text in one step
  Image state_;    // after it
};

TEST_P(ForwardExactness, TokenByToken) {
  ExpectChunks(std::vector<int>(kText, 1), "steps of one token");
}

TEST_P(ForwardExactness, EverySplitInTwo) {
  for (int split = 1; split < kText; ++split) {
    ExpectChunks({split, kText - split}, "split at " + std::to_string(split));
  }
}

TEST_P(ForwardExactness, RandomChunks) {
  std::mt19937_64 random(11);
  for (int round = 0; round < 40; ++round) {
    const int longest = std::vector<int>{2, 5, 17, 64, 65, 130}[round % 6];
    std::vector<int> chunks;
    for (int left = kText; left > 0; left -= chunks.back()) {
      chunks.push_back(std::min<int>(left, 1 + static_cast<int>(random() % longest)));
    }
    ExpectChunks(chunks, "round " + std::to_string(round));
  }
}

TEST_P(ForwardExactness, InACrowd) {
  constexpr int kStrangers = 16;
  std::mt19937_64 random(13);
  std::vector<SlotHandle> handles;
  std::vector<int64_t> positions;
  for (int i = 0; i < kStrangers; ++i) {
    handles.push_back(runner_->Acquire());
    positions.push_back(1 + 12 * i + i % 3);
    const int count = static_cast<int>(positions.back());
    runner_->Feed(handles.back().slot(), 0, RandomTokens(count, vocab(), 100 + i), {count});
  }
  const SlotHandle mine = runner_->Acquire();
  Logits logits;
  for (int64_t at = 0; at < kText;) {
    const int count = std::min<int64_t>(kText - at, 1 + static_cast<int>(random() % 40));
    const int place = static_cast<int>(random() % (kStrangers + 1));
    std::vector<Piece> pieces;
    int64_t before = 0;
    for (int i = 0; i <= kStrangers; ++i) {
      if (i == place) {
        before = 0;
        for (const Piece& piece : pieces) before += static_cast<int64_t>(piece.tokens.size());
        pieces.push_back({mine.slot(), at, Slice(text_, at, at + count)});
      }
      if (i == kStrangers) break;
      const int rows = static_cast<int>(random() % 4);  // some have no rows in this step
      pieces.push_back({handles[i].slot(), positions[i], RandomTokens(rows, vocab(), random())});
      positions[i] += rows;
    }
    // A padding sequence at the end.
    pieces.push_back({-1, 3, RandomTokens(2, vocab(), 5)});
    const Logits all = runner_->Step(pieces);
    const Logits own = Slice(all, before * vocab(), (before + count) * vocab());
    logits.insert(logits.end(), own.begin(), own.end());
    at += count;
  }
  EXPECT_EQ(BitDifference(logits, logits_), "");
  EXPECT_EQ(BitDifference(runner_->Export(mine.slot()), state_), "");
}

// Decode steps of 1 to 9 sequences at different positions; some steps are padded.
TEST_P(ForwardExactness, AmongFewDecoding) {
  for (const int strangers : {0, 1, 2, 4, 7, 8}) {
    std::vector<SlotHandle> handles;
    std::vector<int64_t> positions;
    for (int i = 0; i < strangers; ++i) {
      handles.push_back(runner_->Acquire());
      positions.push_back(i % 3 == 0 ? 0 : 20 * i + i % 3);
      const int count = static_cast<int>(positions.back());
      if (count > 0) {
        runner_->Feed(handles.back().slot(), 0, RandomTokens(count, vocab(), 100 + i), {count});
      }
    }
    const SlotHandle mine = runner_->Acquire();
    Logits logits;
    for (int64_t at = 0; at < kText; ++at) {
      const int place = static_cast<int>(at % (strangers + 1));
      std::vector<Piece> pieces;
      for (int i = 0; i < strangers; ++i) {
        pieces.push_back({handles[i].slot(), positions[i]++, RandomTokens(1, vocab(), at)});
      }
      pieces.insert(pieces.begin() + place, {mine.slot(), at, {text_[at]}});
      const Logits all = runner_->Step(pieces);
      const Logits own = Slice(all, place * vocab(), (place + 1) * vocab());
      logits.insert(logits.end(), own.begin(), own.end());
    }
    EXPECT_EQ(BitDifference(logits, logits_), "") << strangers << " others";
    EXPECT_EQ(BitDifference(runner_->Export(mine.slot()), state_), "") << strangers << " others";
  }
}

TEST_P(ForwardExactness, OthersAreUntouched) {
  const SlotHandle idle = runner_->Acquire();
  runner_->Feed(idle.slot(), 0, text_, {77, kText - 77});
  const SlotHandle fresh = runner_->Acquire();
  const SlotHandle busy = runner_->Acquire();
  runner_->Feed(busy.slot(), 0, text_, {100, 1, 99});
  EXPECT_EQ(BitDifference(runner_->Export(idle.slot()), state_), "");
  EXPECT_EQ(BitDifference(runner_->Export(fresh.slot()), Image(state_.size(), 0)), "");
}

TEST_P(ForwardExactness, AnyNumberOfThreads) {
  if (GetParam().device != kernels::Device::kCpu) GTEST_SKIP() << "threads are the CPU's";
  for (const int threads : {1, 3}) {
    ModelRunner other(SmallConfig(GetParam().changes), 1, threads, 1, GetParam().dtype,
                      kernels::Device::kCpu, GetParam().format);
    const SlotHandle slot = other.Acquire();
    const Logits logits = other.Feed(slot.slot(), 0, text_, {90, 1, 1, 108});
    EXPECT_EQ(BitDifference(logits, logits_), "") << threads << " threads";
    EXPECT_EQ(BitDifference(other.Export(slot.slot()), state_), "") << threads << " threads";
  }
}

TEST_P(ForwardExactness, ExportAndImportAtEveryPosition) {
  // A walks on; B is given A's state at each position, in a slot that something else has used.
  const SlotHandle a = runner_->Acquire();
  for (int at = 0; at < kText; ++at) {
    const Image image = runner_->Export(a.slot());
    SlotHandle b = runner_->Acquire();
    runner_->Feed(b.slot(), 0, RandomTokens(30, vocab(), at), {30});
    runner_->Import(b.slot(), image);
    ASSERT_EQ(BitDifference(runner_->Export(b.slot()), image), "") << at;
    const Logits rest = runner_->Feed(b.slot(), at, Slice(text_, at, kText), {kText - at});
    ASSERT_EQ(BitDifference(rest, Rows(at, kText)), "") << at;
    ASSERT_EQ(BitDifference(runner_->Export(b.slot()), state_), "") << at;
    runner_->Feed(a.slot(), at, {text_[at]}, {1});
  }
}

TEST_P(ForwardExactness, ForksGoTheirOwnWays) {
  for (const int at : {1, 63, 64, 65, 130}) {
    const SlotHandle trunk = runner_->Acquire();
    const SlotHandle fork = runner_->Acquire();
    runner_->Feed(fork.slot(), 0, RandomTokens(9, vocab(), 3), {9});
    runner_->Feed(trunk.slot(), 0, Slice(text_, 0, at), {at});
    ASSERT_TRUE(runner_->slots().Copy(trunk.slot(), fork.slot()).ok());
    runner_->Feed(fork.slot(), at, RandomTokens(80, vocab(), 4), {80});
    const Logits rest = runner_->Feed(trunk.slot(), at, Slice(text_, at, kText), {kText - at});
    EXPECT_EQ(BitDifference(rest, Rows(at, kText)), "") << at;

    // And the other way round: the copy goes on with the text after its trunk went astray.
    const SlotHandle second = runner_->Acquire();
    runner_->Feed(second.slot(), 0, Slice(text_, 0, at), {at});
    ASSERT_TRUE(runner_->slots().Copy(second.slot(), fork.slot()).ok());
    runner_->Feed(second.slot(), at, RandomTokens(80, vocab(), 5), {80});
    const Logits copy = runner_->Feed(fork.slot(), at, Slice(text_, at, kText), {kText - at});
    EXPECT_EQ(BitDifference(copy, Rows(at, kText)), "") << at;
    EXPECT_EQ(BitDifference(runner_->Export(fork.slot()), state_), "") << at;
  }
}

TEST_P(ForwardExactness, FewerLogitRowsAreTheSameRows) {
  const SlotHandle slot = runner_->Acquire();
  RaggedBatch batch;
  batch.tokens = text_;
  batch.seq_offsets = {0, kText};
  batch.slots = {slot.slot()};
  batch.start_positions = {0};
  batch.logit_rows = {0, 5, 63, 64, 150, kText - 1};
  Logits logits(batch.logit_rows.size() * vocab());
  ASSERT_TRUE(runner_->model().Forward(batch, runner_->slots(), absl::MakeSpan(logits)).ok());
  for (size_t i = 0; i < batch.logit_rows.size(); ++i) {
    const int row = batch.logit_rows[i];
    EXPECT_EQ(BitDifference(Slice(logits, i * vocab(), (i + 1) * vocab()), Rows(row, row + 1)), "");
  }
}

INSTANTIATE_TEST_SUITE_P(Models, ForwardExactness, ::testing::ValuesIn(Cases()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace reprise::models::testing
