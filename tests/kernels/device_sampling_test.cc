#include "kernels/device_sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <random>
#include <string>

#include "tests/kernels/mirror.h"

namespace reprise::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// Weights are float32 on the device: by so much of the whole may a boundary be off.
constexpr double kTolerance = 1e-6;

struct Row {
  std::string name;
  std::vector<float> logits;
  SamplingParams params;
  std::vector<TokenCount> counts;
  uint64_t index = 0;
  bool want_logprob = false;
  int top_logprobs = 0;
  int32_t score = -1;

  RowRequest request() const {
    RowRequest request;
    request.sample.params = &params;
    request.sample.counts = counts;
    request.sample.index = index;
    request.sample.want_logprob = want_logprob;
    request.sample.top_logprobs = top_logprobs;
    request.score = score;
    return request;
  }
  absl::StatusOr<SampledToken> OnCpu() const {
    return score >= 0 ? Score(logits, score, top_logprobs) : Sample(logits, request().sample);
  }
};

using Answers = std::vector<absl::StatusOr<SampledToken>>;

// ---- Logits

using Fill = std::function<float(std::mt19937&, int)>;

std::vector<float> Logits(int vocab, uint32_t seed, const Fill& fill) {
  std::mt19937 random(seed);
  std::vector<float> logits(vocab);
  for (int i = 0; i < vocab; ++i) logits[i] = fill(random, i);
  return logits;
}

Fill Normal(float deviation) {
  return [deviation](std::mt19937& random, int) {
    return std::normal_distribution<float>(0.0f, deviation)(random);
  };
}

// Shapes of distributions that take different ways through the kernel.
std::vector<std::pair<std::string, Fill>> Shapes(int vocab) {
  return {
      {"normal", Normal(3.0f)},
      {"nearly_flat", Normal(1e-4f)},
      {"flat", [](std::mt19937&, int) { return -2.5f; }},
      {"two_values", [](std::mt19937& r, int) { return r() % 4 == 0 ? 1.0f : -0.5f; }},
      {"zeros_of_both_signs", [](std::mt19937& r, int) { return r() % 2 == 0 ? 0.0f : -0.0f; }},
      {"peaked",
       [vocab](std::mt19937& r, int i) { return i == vocab / 3 ? 25.0f : Normal(2.0f)(r, i); }},
      {"steps", [](std::mt19937& r, int i) { return std::round(Normal(3.0f)(r, i) * 2) / 2; }},
      {"mostly_masked",
       [](std::mt19937& r, int i) { return r() % 16 == 0 ? Normal(2.0f)(r, i) : -kInfinity; }},
      {"wide",
       [](std::mt19937& r, int i) {
         return Normal(1.0f)(r, i) * std::pow(10.0f, static_cast<float>(r() % 30));
       }},
      {"all_but_one_far_below",
       [vocab](std::mt19937& r, int i) {
         return i == vocab - 1 ? 3.0f : -60.0f + Normal(1e-3f)(r, i);
       }},
  };
}

SamplingParams Params(float temperature, int top_k = 0, float top_p = 1, float min_p = 0) {
  SamplingParams params;
  params.temperature = temperature;
  params.top_k = top_k;
  params.top_p = top_p;
  params.min_p = min_p;
  return params;
}

SamplingParams Penalized(SamplingParams params) {
  params.repetition_penalty = 1.3f;
  params.presence_penalty = 0.6f;
  params.frequency_penalty = 0.25f;
  return params;
}

std::vector<std::pair<std::string, SamplingParams>> ParamTable(int vocab) {
  const int some = std::max(1, vocab / 3);
  return {
      {"greedy", Params(0)},
      {"t1", Params(1)},
      {"t07", Params(0.7f)},
      {"t100", Params(100)},
      {"t_tiny", Params(1e-40f)},
      {"k1", Params(1, 1)},
      {"k50", Params(0.8f, std::min(50, vocab))},
      {"k_third", Params(1, some)},
      {"k_all", Params(1, vocab)},
      {"p01", Params(1, 0, 0.1f)},
      {"p095", Params(0.9f, 0, 0.95f)},
      {"p09999_hot", Params(3, 0, 0.9999f)},
      {"p_tiny", Params(1, 0, 1e-30f)},
      {"min_p005", Params(1, 0, 1, 0.05f)},
      {"min_p1", Params(2, 0, 1, 1)},
      {"min_p_tiny", Params(1, 0, 1, 1e-30f)},
      {"k_p_min_p", Params(1.2f, some, 0.8f, 0.01f)},
      {"k_of_few_p", Params(2, std::min(20, vocab), 0.5f)},
  };
}

// Every shape with every row of the table, each with a seed of its own.
std::vector<Row> AllRows(int vocab) {
  std::vector<Row> rows;
  std::mt19937 random(vocab);
  for (const auto& [shape, fill] : Shapes(vocab)) {
    const std::vector<float> logits = Logits(vocab, random(), fill);
    for (const auto& [name, params] : ParamTable(vocab)) {
      Row row;
      row.name = shape + "/" + name;
      row.logits = logits;
      row.params = params;
      row.params.seed = random() * uint64_t{0x100000001};
      row.index = random() % 1000;
      row.want_logprob = rows.size() % 3 == 0;
      row.top_logprobs = rows.size() % 7 == 0 ? static_cast<int>(random() % 25) : 0;
      rows.push_back(std::move(row));
    }
  }
  return rows;
}

// Biases and penalties on a few, on many and on all tokens.
std::vector<Row> AdjustedRows(int vocab) {
  std::vector<Row> rows;
  std::mt19937 random(vocab + 1);
  for (const int share : {1, 10, vocab}) {  // one token in so many is counted
    for (const auto& [name, params] :
         {std::pair<const char*, SamplingParams>{"greedy", Params(0)},
          {"t1", Params(1)},
          {"p095", Params(1, 0, 0.95f)},
          {"k50_min_p", Params(0.7f, std::min(50, vocab), 1, 0.02f)}}) {
      Row row;
      row.name = std::string("one in ") + std::to_string(share) + "/" + name;
      row.logits = Logits(vocab, random(), Normal(3));
      row.params = Penalized(params);
      row.params.seed = random();
      row.want_logprob = true;
      row.top_logprobs = rows.size() % 2 == 0 ? 5 : 0;
      for (int id = 0; id < vocab; ++id) {
        if (random() % share == 0) row.counts.push_back({id, static_cast<int32_t>(random() % 4)});
      }
      std::shuffle(row.counts.begin(), row.counts.end(), random);
      for (int id = 0; id < vocab; id += std::max(1, vocab / 37)) {
        row.params.logit_bias.push_back({id, static_cast<float>(random() % 40) - 20});
      }
      rows.push_back(std::move(row));
    }
  }
  return rows;
}

std::vector<Row> UnsoundRows(int vocab) {
  std::vector<Row> rows;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const float bad : {nan, -nan, kInfinity}) {
    for (const int at : {0, vocab / 2, vocab - 1}) {
      Row row;
      row.name = "bad value at " + std::to_string(at);
      row.logits = Logits(vocab, 9, Normal(2));
      row.logits[at] = bad;
      row.params = at == 0 ? Params(1, 0, 0.5f) : Params(0);
      row.score = at == vocab / 2 ? 0 : -1;
      rows.push_back(std::move(row));
    }
  }
  Row none;
  none.name = "none finite";
  none.logits.assign(vocab, -kInfinity);
  rows.push_back(none);
  // Sound by itself, infinite once adjusted.
  Row overflow;
  overflow.name = "overflow by a penalty";
  overflow.logits = Logits(vocab, 9, Normal(2));
  overflow.logits[vocab / 2] = 1e38f;
  overflow.params.repetition_penalty = 1e-3f;
  overflow.counts = {{vocab / 2, 0}};
  rows.push_back(overflow);
  return rows;
}

// ---- What is right

// The distribution that a row draws from, in double: weights of the candidates in the order in
// which the draw goes through them.
struct Reference {
  std::vector<int32_t> ids;
  std::vector<double> sums;  // of weights, inclusive
  std::vector<int> ends;     // possible lengths of the kept part, ascending and adjacent

  explicit Reference(const Row& row) {
    const SamplingParams& params = row.params;
    std::vector<float> logits = row.logits;
    for (const auto& [id, bias] : params.logit_bias) logits[id] += bias;
    for (const TokenCount& count : row.counts) {
      float& logit = logits[count.id];
      logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
      if (count.in_answer > 0) {
        logit -= params.presence_penalty + params.frequency_penalty * count.in_answer;
      }
    }
    ids.resize(logits.size());
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i);
    const float max = *std::max_element(logits.begin(), logits.end());
    const bool truncates = params.top_k > 0 || params.top_p < 1 || params.min_p > 0;
    if (truncates) {
      std::stable_sort(ids.begin(), ids.end(),
                       [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
      if (params.top_k > 0) ids.resize(std::min<size_t>(ids.size(), params.top_k));
    }
    std::vector<double> weights;
    double sum = 0;
    for (const int32_t id : ids) {
      const double difference = static_cast<double>(logits[id]) - max;
      weights.push_back(difference == 0 ? 1.0 : std::exp(difference / params.temperature));
      sums.push_back(sum += weights.back());
    }
    const int count = static_cast<int>(ids.size());
    // The ranking ends at `surely` at the latest, and not before `possibly`.
    int surely = count, possibly = count;
    for (int i = count; i-- > 0;) {
      const double wanted = params.top_p * sum;
      const double lighter = i + 1 < count ? weights[i + 1] : 1.0;
      if (params.top_p < 1 && sums[i] >= wanted - kTolerance * sum)
        possibly = std::min(possibly, i + 1);
      if (params.top_p < 1 && sums[i] >= wanted + kTolerance * sum)
        surely = std::min(surely, i + 1);
      if (lighter < params.min_p * (1 + kTolerance)) possibly = std::min(possibly, i + 1);
      if (lighter < params.min_p * (1 - kTolerance)) surely = std::min(surely, i + 1);
    }
    for (int end = possibly; end <= surely; ++end) ends.push_back(end);
  }

  // Whether `id` is what `uniform` draws, but for rounding.
  bool Allows(int32_t id, double uniform) const {
    const auto found = std::find(ids.begin(), ids.end(), id);
    if (found == ids.end()) return false;
    const int at = static_cast<int>(found - ids.begin());
    for (const int end : ends) {
      if (at >= end) continue;
      const double whole = sums[end - 1], target = uniform * whole, slack = kTolerance * whole;
      const double before = at == 0 ? 0 : sums[at - 1];
      if (before < sums[at] && before <= target + slack && sums[at] >= target - slack) return true;
    }
    return false;
  }
};

void ExpectNear(const SampledToken& cpu, const SampledToken& device, const Row& row) {
  ASSERT_EQ(cpu.top.size(), device.top.size()) << row.name;
  for (size_t i = 0; i < cpu.top.size(); ++i) {
    EXPECT_EQ(cpu.top[i].id, device.top[i].id) << row.name << ", top " << i;
    if (cpu.top[i].logprob == device.top[i].logprob) continue;  // both -inf, say
    EXPECT_NEAR(cpu.top[i].logprob, device.top[i].logprob,
                1e-5 * std::max(1.0f, std::abs(cpu.top[i].logprob) / 10))
        << row.name << ", top " << i;
  }
  if (cpu.id != device.id || cpu.logprob == device.logprob) return;
  EXPECT_NEAR(cpu.logprob, device.logprob, 1e-5 * std::max(1.0f, std::abs(cpu.logprob) / 10))
      << row.name;
}

// Compares the device with the CPU row by row; returns how often a draw fell on a boundary.
int ExpectSameAnswers(const std::vector<Row>& rows, const Answers& answers) {
  EXPECT_EQ(rows.size(), answers.size());
  int on_boundary = 0;
  for (size_t i = 0; i < std::min(rows.size(), answers.size()); ++i) {
    const Row& row = rows[i];
    const absl::StatusOr<SampledToken> cpu = row.OnCpu();
    EXPECT_EQ(cpu.status(), answers[i].status()) << row.name;
    if (!cpu.ok() || !answers[i].ok()) continue;
    if (cpu->id != answers[i]->id) {
      ++on_boundary;
      if (row.score >= 0 || row.params.temperature == 0) {
        ADD_FAILURE() << row.name << ": " << cpu->id << " on the CPU, " << answers[i]->id;
        continue;
      }
      const double uniform =
          static_cast<double>(PhiloxDraw(row.params.seed, row.index, 0) >> 11) * 0x1.0p-53;
      EXPECT_TRUE(Reference(row).Allows(answers[i]->id, uniform))
          << row.name << ": " << cpu->id << " on the CPU, " << answers[i]->id << ", uniform "
          << uniform;
    }
    ExpectNear(*cpu, *answers[i], row);
  }
  return on_boundary;
}

void ExpectSameBits(const absl::StatusOr<SampledToken>& a, const absl::StatusOr<SampledToken>& b,
                    const std::string& name) {
  ASSERT_EQ(a.status(), b.status()) << name;
  if (!a.ok()) return;
  EXPECT_EQ(a->id, b->id) << name;
  EXPECT_EQ(std::memcmp(&a->logprob, &b->logprob, sizeof(float)), 0) << name;
  ASSERT_EQ(a->top.size(), b->top.size()) << name;
  EXPECT_TRUE(a->top.empty() ||
              std::memcmp(a->top.data(), b->top.data(), sizeof(TokenLogprob) * a->top.size()) == 0)
      << name;
}

// ---- On the device

class CudaSampling {
 public:
  CudaSampling(int max_rows, int vocab) : vocab_(vocab) {
    context_.device = Device::kCuda;
    context_.queue = TestQueue();
    auto sampler = DeviceSampler::Create(max_rows, vocab, context_);
    EXPECT_TRUE(sampler.ok()) << sampler.status();
    sampler_ = *std::move(sampler);
    auto logits = Buffer::Allocate(Device::kCuda, sizeof(float) * max_rows * vocab);
    EXPECT_TRUE(logits.ok()) << logits.status();
    logits_ = *std::move(logits);
  }

  std::vector<RowRequest> Upload(const std::vector<Row>& rows) {
    std::vector<RowRequest> requests;
    for (size_t i = 0; i < rows.size(); ++i) {
      EXPECT_EQ(rows[i].logits.size(), static_cast<size_t>(vocab_));
      EXPECT_TRUE(context_.queue
                      ->Upload(logits_.as<float>() + i * vocab_, rows[i].logits.data(),
                               sizeof(float) * vocab_)
                      .ok());
      requests.push_back(rows[i].request());
    }
    return requests;
  }

  Answers Sample(const std::vector<Row>& rows) {
    const std::vector<RowRequest> requests = Upload(rows);
    Answers answers;
    const absl::Status status = sampler_->Sample(logits_.as<float>(), requests, &answers);
    EXPECT_TRUE(status.ok()) << status;
    return answers;
  }

  // In batches of `most` rows.
  Answers SampleAll(const std::vector<Row>& rows, size_t most) {
    Answers all;
    for (size_t i = 0; i < rows.size(); i += most) {
      const std::vector<Row> part(rows.begin() + i, rows.begin() + std::min(rows.size(), i + most));
      for (auto& answer : Sample(part)) all.push_back(std::move(answer));
    }
    return all;
  }

  DeviceSampler& sampler() { return *sampler_; }
  float* logits() { return logits_.as<float>(); }
  DeviceQueue& queue() { return *context_.queue; }

 private:
  const int vocab_;
  Context context_;
  std::unique_ptr<DeviceSampler> sampler_;
  Buffer logits_;
};

// A vocabulary for each number of blocks that share a row, one of them of no even length.
class CudaSamplingTest : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    if (TestQueue() == nullptr) GTEST_SKIP() << "no CUDA device";
  }
};
INSTANTIATE_TEST_SUITE_P(Vocabularies, CudaSamplingTest,
                         ::testing::Values(1, 64, 4096, 50257, 256000),
                         [](const auto& info) { return "Of" + std::to_string(info.param); });

TEST_P(CudaSamplingTest, ChoosesAsTheCpuDoes) {
  CudaSampling cuda(64, GetParam());
  const std::vector<Row> rows = AllRows(GetParam());
  const int on_boundary = ExpectSameAnswers(rows, cuda.SampleAll(rows, 64));
  EXPECT_LE(on_boundary, static_cast<int>(rows.size()) / 20);
}

TEST_P(CudaSamplingTest, AdjustsAsTheCpuDoes) {
  CudaSampling cuda(5, GetParam());
  const std::vector<Row> rows = AdjustedRows(GetParam());
  EXPECT_LE(ExpectSameAnswers(rows, cuda.SampleAll(rows, 5)), 1);
}

TEST_P(CudaSamplingTest, SeesUnsoundLogits) {
  CudaSampling cuda(16, GetParam());
  const std::vector<Row> rows = UnsoundRows(GetParam());
  ExpectSameAnswers(rows, cuda.SampleAll(rows, 16));
}

TEST_P(CudaSamplingTest, ScoresAsTheCpuDoes) {
  const int vocab = GetParam();
  std::vector<Row> rows;
  for (const auto& [shape, fill] : Shapes(vocab)) {
    for (const int top : {0, 1, 20}) {
      Row row;
      row.name = shape + "/top " + std::to_string(top);
      row.logits = Logits(vocab, 17 + top, fill);
      row.top_logprobs = top;
      row.score = top * 7 % vocab;
      rows.push_back(std::move(row));
    }
  }
  CudaSampling cuda(64, vocab);
  EXPECT_EQ(ExpectSameAnswers(rows, cuda.SampleAll(rows, 64)), 0);
}

// Alone, among others and in another place, with or without rows that need more than one look.
TEST_P(CudaSamplingTest, ARowsBitsAreItsOwn) {
  const int vocab = GetParam();
  std::vector<Row> rows = AdjustedRows(vocab);
  for (const std::vector<Row>& more : {UnsoundRows(vocab), AllRows(vocab)}) {
    for (size_t i = 0; i < more.size(); i += 5) rows.push_back(more[i]);
  }
  if (rows.size() > 40) rows.resize(40);
  CudaSampling cuda(static_cast<int>(rows.size()), vocab);
  const Answers together = cuda.Sample(rows);
  std::vector<Row> reversed(rows.rbegin(), rows.rend());
  const Answers backwards = cuda.Sample(reversed);
  for (size_t i = 0; i < rows.size(); ++i) {
    ExpectSameBits(together[i], backwards[rows.size() - 1 - i], rows[i].name);
    ExpectSameBits(together[i], cuda.Sample({rows[i]})[0], rows[i].name + ", alone");
  }
}

TEST_P(CudaSamplingTest, LeavesLogitsAloneAndIdsOnTheDevice) {
  const int vocab = GetParam();
  const std::vector<Row> rows = AdjustedRows(vocab);
  const int count = static_cast<int>(rows.size());
  CudaSampling cuda(count, vocab);
  const Answers answers = cuda.Sample(rows);
  std::vector<float> logits(rows.size() * vocab);
  std::vector<int32_t> ids(rows.size());
  ASSERT_TRUE(cuda.queue().Download(logits.data(), cuda.logits(), logits.size() * 4).ok());
  ASSERT_TRUE(cuda.queue().Download(ids.data(), cuda.sampler().ids(), ids.size() * 4).ok());
  ASSERT_TRUE(cuda.queue().Synchronize().ok());
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(std::memcmp(&logits[i * vocab], rows[i].logits.data(), sizeof(float) * vocab), 0)
        << rows[i].name;
    EXPECT_EQ(ids[i], answers[i]->id) << rows[i].name;
  }
}

class CudaSamplerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (TestQueue() == nullptr) GTEST_SKIP() << "no CUDA device";
  }
};

// As SamplingDistributionTest on the CPU: chi-square over 20,000 draws with a bound that a right
// sampler passes with probability 1 - 1e-6; the draws are fixed by their seed.
TEST_F(CudaSamplerTest, DrawsFollowTheDistribution) {
  constexpr int kDraws = 20000, kVocab = 40;
  CudaSampling cuda(250, kVocab);
  for (const SamplingParams& params :
       {Params(1), Params(1.5f, 12), Params(1, 0, 0.8f), Penalized(Params(2, 30, 0.95f, 0.02f))}) {
    Row row;
    row.logits = Logits(kVocab, 3, Normal(3));
    row.params = params;
    row.counts = {{3, 1}, {17, 0}};
    const Reference reference(row);
    std::map<int32_t, int> seen;
    for (int begin = 0; begin < kDraws; begin += 250) {
      std::vector<Row> rows(250, row);
      for (int i = 0; i < 250; ++i) rows[i].index = begin + i;
      for (const auto& answer : cuda.Sample(rows)) ++seen[answer->id];
    }
    const int end = reference.ends[0];
    double statistic = 0, rare_expected = 0, rare_seen = 0;
    int cells = 0, counted = 0;
    for (int i = 0; i < end; ++i) {
      const double weight = reference.sums[i] - (i == 0 ? 0 : reference.sums[i - 1]);
      const double expected = weight / reference.sums[end - 1] * kDraws;
      const int s = seen[reference.ids[i]];
      counted += s;
      if (expected < 10) {
        rare_expected += expected;
        rare_seen += s;
        continue;
      }
      statistic += (s - expected) * (s - expected) / expected;
      ++cells;
    }
    EXPECT_EQ(counted, kDraws) << "tokens that cannot be drawn";
    if (rare_expected >= 10) {
      statistic += (rare_seen - rare_expected) * (rare_seen - rare_expected) / rare_expected;
      ++cells;
    }
    const double freedom = std::max(1, cells - 1);
    EXPECT_LT(statistic, freedom + 4.8 * std::sqrt(2 * freedom) + 25) << cells << " cells";
  }
}

// The last that top_k or top_p leaves is the first that min_p takes: it cannot be drawn.
TEST_F(CudaSamplerTest, TwoEndsMayMeet) {
  std::vector<Row> rows;
  for (const SamplingParams& params : {Params(1, 3, 1, 0.2f), Params(1, 0, 0.95f, 0.2f)}) {
    for (uint64_t index = 0; index < 200; ++index) {
      Row row;
      row.name = "draw " + std::to_string(index);
      row.logits = {0, 3, -1, 2, 1};  // weights 1, 0.37, 0.14, 0.05, 0.02 in order of rank
      row.params = params;
      row.index = index;
      rows.push_back(std::move(row));
    }
  }
  CudaSampling cuda(400, 5);
  EXPECT_EQ(ExpectSameAnswers(rows, cuda.Sample(rows)), 0);
}

TEST_F(CudaSamplerTest, TwoStepsMayBeUnderWay) {
  constexpr int kVocab = 300;
  CudaSampling cuda(4, kVocab);
  std::vector<Row> first = AdjustedRows(kVocab), second = AllRows(kVocab);
  first.resize(4);
  second.resize(3);
  const Answers first_alone = cuda.Sample(first), second_alone = cuda.Sample(second);
  DeviceSampler& sampler = cuda.sampler();
  Answers answers;
  EXPECT_EQ(sampler.Collect(&answers).code(), absl::StatusCode::kFailedPrecondition);

  ASSERT_TRUE(sampler.Queue(cuda.logits(), cuda.Upload(first)).ok());
  EXPECT_EQ(sampler.Sample(cuda.logits(), {}, &answers).code(),
            absl::StatusCode::kFailedPrecondition);
  const std::vector<RowRequest> requests = cuda.Upload(second);
  ASSERT_TRUE(sampler.Queue(cuda.logits(), requests).ok());
  EXPECT_EQ(sampler.Queue(cuda.logits(), requests).code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(sampler.Collect(&answers).ok());
  ASSERT_EQ(answers.size(), 4u);
  for (int i = 0; i < 4; ++i) ExpectSameBits(answers[i], first_alone[i], first[i].name);
  // The first step's place is free again.
  ASSERT_TRUE(sampler.Queue(cuda.logits(), {}).ok());
  ASSERT_TRUE(sampler.Collect(&answers).ok());
  ASSERT_EQ(answers.size(), 3u);
  for (int i = 0; i < 3; ++i) ExpectSameBits(answers[i], second_alone[i], second[i].name);
  ASSERT_TRUE(sampler.Collect(&answers).ok());
  EXPECT_TRUE(answers.empty());
}

TEST_F(CudaSamplerTest, AForeignTokenIsItsRowsErrorOnly) {
  constexpr int kVocab = 100;
  CudaSampling cuda(4, kVocab);
  std::vector<Row> rows = AdjustedRows(kVocab);
  rows.resize(4);
  const Answers right = cuda.Sample(rows);
  rows[0].counts.push_back({kVocab, 1});
  rows[1].params.logit_bias.push_back({-1, 1.0f});
  rows[2].score = kVocab;
  const Answers answers = cuda.Sample(rows);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(answers[i].status().code(), absl::StatusCode::kInvalidArgument) << i;
  }
  ExpectSameBits(answers[3], right[3], rows[3].name);
  EXPECT_EQ(cuda.sampler().Queue(cuda.logits(), std::vector<RowRequest>(5)).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(DeviceSamplerTest, WantsACudaQueueAndSizesWithinItsLimits) {
  const auto code = [](int rows, int vocab, const Context& context) {
    return DeviceSampler::Create(rows, vocab, context).status().code();
  };
  EXPECT_EQ(code(1, 10, Context{}), absl::StatusCode::kInvalidArgument);
  Context no_queue;
  no_queue.device = Device::kCuda;
  EXPECT_EQ(code(1, 10, no_queue), absl::StatusCode::kInvalidArgument);
  if (TestQueue() == nullptr) return;
  Context context = no_queue;
  context.queue = TestQueue();
  EXPECT_EQ(code(0, 10, context), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(1, 0, context), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(1, DeviceSampler::kMaxVocab + 1, context), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(1, DeviceSampler::kMaxVocab, context), absl::StatusCode::kOk);
}

}  // namespace
}  // namespace reprise::kernels
