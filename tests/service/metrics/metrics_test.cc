// The parts that count, driven by hand.
#include "service/metrics/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <utility>

#include "service/metrics/batched_histogram.h"
#include "service/metrics/buckets.h"
#include "service/metrics/process_stats.h"
#include "service/metrics/sources.h"
#include "state_store/memory_store.h"
#include "state_store/testing/faulty_store.h"
#include "tests/service/metrics/exposition.h"

namespace reprise::service {
namespace {

using scheduler::FinishReason;
using scheduler::SchedulerError;
using scheduler::SchedulerMetrics;
using state_store::StoreError;
using testing::ReadSamples;

TEST(BatchedHistogramTest, GivesWhatObservingOneByOneGives) {
  const buckets::Edges edges = {0.001, 0.5, 1, 2.5};
  prometheus::Histogram batched_target(edges), one_by_one(edges);
  BatchedHistogram batched(batched_target, edges);
  std::mt19937 random(3);
  std::uniform_real_distribution<double> values(0, 4);
  for (int i = 0; i < 1000; ++i) {
    // Edges themselves, which belong to the bucket below them, and what lies between and beyond.
    const double value = i < 4 ? edges[i] : i == 4 ? 0 : values(random);
    batched.Observe(value);
    one_by_one.Observe(value);
    if (i % 97 == 0) batched.Flush();
  }
  batched.Flush();
  batched.Flush();  // nothing twice
  const auto got = batched_target.Collect().histogram;
  const auto expected = one_by_one.Collect().histogram;
  EXPECT_EQ(got.sample_count, 1000u);
  EXPECT_NEAR(got.sample_sum, expected.sample_sum, 1e-9);
  ASSERT_EQ(got.bucket.size(), expected.bucket.size());
  for (size_t i = 0; i < got.bucket.size(); ++i) {
    EXPECT_EQ(got.bucket[i].cumulative_count, expected.bucket[i].cumulative_count) << i;
  }
}

TEST(BatchedHistogramTest, NothingIsSeenBeforeItIsFlushed) {
  prometheus::Histogram target({1});
  BatchedHistogram batched(target, {1});
  batched.Observe(0.5);
  EXPECT_EQ(target.Collect().histogram.sample_count, 0u);
  batched.Flush();
  EXPECT_EQ(target.Collect().histogram.sample_count, 1u);
}

TEST(BucketsTest, EdgesRise) {
  for (const buckets::Edges& edges :
       {buckets::FirstToken(), buckets::TokenGap(), buckets::Request(), buckets::Step(),
        buckets::Rows(), buckets::Call()}) {
    EXPECT_TRUE(std::is_sorted(edges.begin(), edges.end(), std::less_equal<>()));
  }
  // Where vLLM's begin.
  EXPECT_EQ(buckets::TokenGap().front(), 0.0005);
  EXPECT_THAT(buckets::Request(), ::testing::Contains(0.3));
}

TEST(TenantLabelsTest, NoMoreNamesThanAllowed) {
  TenantLabels labels(2);
  EXPECT_EQ(labels.LabelOf("a"), "a");
  EXPECT_EQ(labels.LabelOf("b"), "b");
  EXPECT_EQ(labels.LabelOf("c"), "other");
  EXPECT_EQ(labels.LabelOf("a"), "a");
  EXPECT_EQ(labels.LabelOf("d"), "other");
  EXPECT_FALSE(TenantLabels(0).enabled());
}

TEST(MetricsTest, TenantsAreCountedOnlyIfTheyAreAskedFor) {
  Metrics without(0), with(1);
  for (Metrics* metrics : {&without, &with}) {
    metrics->CountTenant("a", true, 5, 7);
    metrics->CountTenant("b", false, 1, 0);
  }
  EXPECT_THAT(without.Text(), ::testing::Not(::testing::HasSubstr("tenant")));
  const auto samples = ReadSamples(with.Text());
  EXPECT_EQ(samples.at(R"(reprise_tenant_requests_total{outcome="ok",tenant="a"})"), 1);
  EXPECT_EQ(samples.at(R"(reprise_tenant_requests_total{outcome="failed",tenant="other"})"), 1);
  EXPECT_EQ(samples.at(R"(reprise_tenant_prompt_tokens_total{tenant="a"})"), 5);
  EXPECT_EQ(samples.at(R"(reprise_tenant_generation_tokens_total{tenant="a"})"), 7);
}

TEST(ModelMetricsTest, AStepsTokensShowWhenItEnds) {
  Metrics metrics;
  ModelMetrics* model = metrics.AddModel("m");
  EXPECT_EQ(metrics.AddModel("m"), model);
  model->OnFirstToken(absl::Milliseconds(30));
  model->OnTokenGap(absl::Microseconds(700));
  model->OnTokenGap(absl::Milliseconds(3));
  auto samples = ReadSamples(metrics.Text());
  EXPECT_EQ(samples.at(R"(reprise_generation_tokens_total{model_name="m"})"), 0);

  SchedulerMetrics::Step step;
  step.total = absl::Milliseconds(5);
  step.model = absl::Milliseconds(4);
  step.decode_rows = 2;
  step.prefill_rows = 100;
  step.parks = 1;
  step.restores = 2;
  step.checkpoints = 3;
  step.refused[static_cast<int>(SchedulerError::kQueueFull)] = 4;
  model->OnStep(step);
  model->OnStep({});  // nothing is counted twice
  samples = ReadSamples(metrics.Text());
  EXPECT_EQ(samples.at(R"(reprise_generation_tokens_total{model_name="m"})"), 3);
  EXPECT_EQ(samples.at(R"(reprise_time_to_first_token_seconds_count{model_name="m"})"), 1);
  EXPECT_NEAR(samples.at(R"(reprise_inter_token_latency_seconds_sum{model_name="m"})"), 0.0037,
              1e-9);
  EXPECT_EQ(samples.at(R"(reprise_inter_token_latency_seconds_bucket{le="0.0005",model_name="m"})"),
            0);
  EXPECT_EQ(samples.at(R"(reprise_inter_token_latency_seconds_bucket{le="0.001",model_name="m"})"),
            1);
  EXPECT_NEAR(samples.at(R"(reprise_step_seconds_sum{model_name="m",phase="model"})"), 0.004, 1e-9);
  EXPECT_NEAR(samples.at(R"(reprise_step_seconds_sum{model_name="m",phase="scheduler"})"), 0.001,
              1e-9);
  EXPECT_EQ(samples.at(R"(reprise_step_rows_sum{kind="prefill",model_name="m"})"), 100);
  EXPECT_EQ(samples.at(R"(reprise_parks_total{model_name="m"})"), 1);
  EXPECT_EQ(samples.at(R"(reprise_restores_total{model_name="m"})"), 2);
  EXPECT_EQ(samples.at(R"(reprise_checkpoints_total{model_name="m"})"), 3);
  EXPECT_EQ(samples.at(R"(reprise_requests_refused_total{model_name="m",reason="QUEUE_FULL"})"), 4);
}

TEST(ModelMetricsTest, EndsAreToldApart) {
  Metrics metrics;
  ModelMetrics* model = metrics.AddModel("m");
  scheduler::Timeline timeline;
  timeline.queue = absl::Seconds(1);
  timeline.prefill = absl::Seconds(2);
  timeline.decode = absl::Seconds(3);
  const auto finish = [&](absl::StatusCode code, FinishReason reason, bool started, int tokens) {
    SchedulerMetrics::Finish end;
    end.code = code;
    end.reason = reason;
    end.started = started;
    end.generated_tokens = tokens;
    end.timeline = &timeline;
    model->OnFinish(end);
  };
  finish(absl::StatusCode::kOk, FinishReason::kStopToken, true, 4);
  finish(absl::StatusCode::kOk, FinishReason::kDrained, true, 4);
  finish(absl::StatusCode::kCancelled, FinishReason::kMaxTokens, false, 0);  // in the queue
  finish(absl::StatusCode::kDeadlineExceeded, FinishReason::kMaxTokens, true, 0);
  finish(absl::StatusCode::kInternal, FinishReason::kMaxTokens, true, 1);
  const auto samples = ReadSamples(metrics.Text());
  const auto ended = [&](const std::string& reason) {
    return samples.at(R"(reprise_requests_finished_total{finished_reason=")" + reason +
                      R"(",model_name="m"})");
  };
  EXPECT_EQ(ended("stop_token"), 1);
  EXPECT_EQ(ended("drained"), 1);
  EXPECT_EQ(ended("cancelled"), 1);
  EXPECT_EQ(ended("deadline"), 1);
  EXPECT_EQ(ended("error"), 1);
  EXPECT_EQ(ended("max_tokens"), 0);
  EXPECT_EQ(samples.at(R"(reprise_request_queue_time_seconds_count{model_name="m"})"), 4);
  EXPECT_EQ(samples.at(R"(reprise_request_prefill_time_seconds_count{model_name="m"})"), 3);
  EXPECT_EQ(samples.at(R"(reprise_request_decode_time_seconds_sum{model_name="m"})"), 9);
  EXPECT_EQ(samples.at(R"(reprise_request_load_time_seconds_count{model_name="m"})"), 0);
}

TEST(ModelMetricsTest, MovesOfStatesGoByDirection) {
  Metrics metrics;
  ModelMetrics* model = metrics.AddModel("m");
  model->OnMove(SchedulerMetrics::Move::kOutOfSlot, 100, absl::Milliseconds(2));
  model->OnMove(SchedulerMetrics::Move::kIntoSlot, 30, absl::Milliseconds(1));
  model->OnMove(SchedulerMetrics::Move::kIntoSlot, 30, absl::Milliseconds(1));
  const auto samples = ReadSamples(metrics.Text());
  const std::string labels = R"(",model_name="m",tier="device"})";
  EXPECT_EQ(samples.at(R"(reprise_state_transfer_bytes_total{direction="save)" + labels), 100);
  EXPECT_EQ(samples.at(R"(reprise_state_transfer_bytes_total{direction="load)" + labels), 60);
  EXPECT_EQ(samples.at(R"(reprise_state_transfer_seconds_count{direction="load)" + labels), 2);
}

class MeasuredStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto faulty = std::make_unique<state_store::FaultyStore>(
        state_store::CreateMemoryStore(state_store::StoreOptions{}).value());
    faulty_ = faulty.get();
    store_ = metrics_.Measured(std::move(faulty), "store");
  }
  // Calls of `method` fail so.
  void Fail(const std::string& method, StoreError error) {
    faulty_->SetBefore([=](std::string_view called) {
      return called == method ? state_store::MakeStoreError(error, "on purpose") : absl::OkStatus();
    });
  }
  double Sample(const std::string& name) { return ReadSamples(metrics_.Text()).at(name); }
  static state_store::Snapshot SnapshotOf(const std::string& payload) {
    state_store::Snapshot snapshot;
    snapshot.payloads = {payload};
    return snapshot;
  }

  Metrics metrics_;
  state_store::FaultyStore* faulty_ = nullptr;
  std::unique_ptr<state_store::SessionStore> store_;
};

TEST_F(MeasuredStoreTest, CallsGoThroughAndAreTimedByOperation) {
  ASSERT_TRUE(store_->CreateSession("t", {.id = "s"}).ok());
  EXPECT_EQ(store_->GetSession("t", "s")->id, "s");
  EXPECT_EQ(store_->ListSessions("t", {})->sessions.size(), 1u);
  EXPECT_TRUE(absl::IsNotFound(store_->GetSession("other", "s").status()));
  const std::string count = R"(reprise_store_operation_seconds_count{operation=")";
  EXPECT_EQ(Sample(count + R"(create_session",tier="store"})"), 1);
  EXPECT_EQ(Sample(count + R"(get_session",tier="store"})"), 2);
  EXPECT_EQ(Sample(count + R"(list_sessions",tier="store"})"), 1);
  EXPECT_EQ(Sample(count + R"(fork",tier="store"})"), 0);
  EXPECT_EQ(Sample(R"(reprise_store_errors_total{kind="SESSION_NOT_FOUND",tier="store"})"), 1);
}

TEST_F(MeasuredStoreTest, OnlyWritersThatAreFencedOffCountAsFenced) {
  ASSERT_TRUE(store_->CreateSession("t", {.id = "s"}).ok());
  const std::string fenced = R"(reprise_store_fencing_rejections_total{tier="store"})";
  Fail("PutAndCommit", StoreError::kVersionMismatch);
  EXPECT_FALSE(store_->PutAndCommit("t", "s", 1, SnapshotOf("x"), {}).ok());
  EXPECT_EQ(Sample(fenced), 0);
  Fail("PutAndCommit", StoreError::kLeaseLost);
  EXPECT_FALSE(store_->PutAndCommit("t", "s", 1, SnapshotOf("x"), {}).ok());
  EXPECT_EQ(Sample(fenced), 1);
  Fail("GetSession", StoreError::kLeaseLost);
  EXPECT_FALSE(store_->GetSession("t", "s").ok());
  EXPECT_EQ(Sample(fenced), 1);
  EXPECT_EQ(Sample(R"(reprise_store_errors_total{kind="LEASE_LOST",tier="store"})"), 2);
  EXPECT_EQ(Sample(R"(reprise_store_errors_total{kind="VERSION_MISMATCH",tier="store"})"), 1);
  // What failed has moved no bytes.
  EXPECT_EQ(Sample(R"(reprise_state_transfer_bytes_total{direction="save",tier="store"})"), 0);
  EXPECT_EQ(Sample(R"(reprise_state_transfer_seconds_count{direction="save",tier="store"})"), 0);
}

TEST(MetricsTest, SourcesAreAskedUntilTheyAreForgotten) {
  Metrics metrics;
  int asked = 0;
  metrics.AddSource([&](Scrape& scrape) {
    scrape.Gauge("reprise_asked", "How often", {{"who", "a"}}, ++asked);
    scrape.Gauge("reprise_asked", "How often", {{"who", "b"}}, 0);
  });
  EXPECT_EQ(ReadSamples(metrics.Text()).at(R"(reprise_asked{who="a"})"), 1);
  EXPECT_THAT(metrics.Text(), ::testing::HasSubstr("# HELP reprise_asked How often\n"
                                                   "# TYPE reprise_asked gauge\n"));
  metrics.ForgetSources();
  EXPECT_THAT(metrics.Text(), ::testing::Not(::testing::HasSubstr("reprise_asked")));
  EXPECT_EQ(asked, 2);
}

TEST(SourcesTest, TheSpillIsToldByTier) {
  scheduler::TieredSpillStats stats;
  stats.host_entries = 1;
  stats.host_bytes = 2;
  stats.host_evictions = 3;
  stats.host_hits = 4;
  stats.queued_bytes = 5;
  stats.shared = 6;
  stats.share_drops = 7;
  stats.store_hits = 8;
  stats.store_misses = 9;
  stats.store_failures = 10;
  stats.damaged = 11;
  stats.store = {.bytes = 12, .tenant_evictions = 13, .total_evictions = 14};
  Metrics metrics(0);
  metrics.AddSource([&](Scrape& scrape) { ScrapeSpill(stats, scrape); });
  const auto samples = ReadSamples(metrics.Text());
  const std::pair<const char*, int> expected[] = {
      {"reprise_prefix_spill_entries", 1},
      {"reprise_prefix_spill_bytes", 2},
      {"reprise_prefix_spill_evictions_total", 3},
      {"reprise_prefix_spill_hits_total{tier=\"host\"}", 4},
      {"reprise_prefix_share_queued_bytes", 5},
      {"reprise_prefix_share_events_total{event=\"written\"}", 6},
      {"reprise_prefix_share_events_total{event=\"dropped\"}", 7},
      {"reprise_prefix_spill_hits_total{tier=\"store\"}", 8},
      {"reprise_prefix_share_events_total{event=\"missed\"}", 9},
      {"reprise_prefix_share_events_total{event=\"failed\"}", 10},
      {"reprise_prefix_share_events_total{event=\"damaged\"}", 11},
      {"reprise_prefix_share_bytes", 12},
      {"reprise_prefix_share_evictions_total{cap=\"tenant\"}", 13},
      {"reprise_prefix_share_evictions_total{cap=\"total\"}", 14},
  };
  for (const auto& [name, value] : expected) {
    ASSERT_EQ(samples.count(name), 1u) << name;
    EXPECT_EQ(samples.at(name), value) << name;
  }
}

TEST(ProcessStatsTest, TheKernelSaysSomething) {
  const ProcessStats stats = ReadProcessStats();
  EXPECT_GT(stats.resident_bytes, 1 << 20);
  EXPECT_GE(stats.virtual_bytes, stats.resident_bytes);
  EXPECT_GE(stats.threads, 1);
  EXPECT_GE(stats.open_fds, 3);
  EXPECT_GE(stats.max_fds, stats.open_fds);
  EXPECT_GT(stats.start_time_seconds, 1.5e9);
  const HostMemory memory = ReadHostMemory();
  EXPECT_GT(memory.total_bytes, memory.free_bytes);
  EXPECT_GT(memory.free_bytes, 0);
}

}  // namespace
}  // namespace reprise::service
