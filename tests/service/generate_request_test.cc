#include "service/generate_request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "google/rpc/error_details.pb.h"
#include "service/errors.h"
#include "service/status_to_grpc.h"
#include "tests/service/testing/test_server.h"

namespace reprise::service {
namespace {

using ::testing::ElementsAre;
using testing::FieldsIn;

v1::GenerateRequest Base() {
  v1::GenerateRequest request;
  request.set_text("hello");
  return request;
}

std::vector<std::string> Violations(const v1::GenerateRequest& request) {
  return FieldsIn(ToGrpcStatus(CheckFields(request, RequestLimits())));
}

// One change to a legal request, and the field that must be named for it.
struct Case {
  std::string field;
  std::function<void(v1::GenerateRequest*)> change;
};

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

#define CASE(field, statement)                       \
  Case {                                             \
    field, [](v1::GenerateRequest* r) { statement; } \
  }

TEST(GenerateRequestTest, DefaultsAreLegal) { EXPECT_TRUE(Violations(Base()).empty()); }

TEST(GenerateRequestTest, LegalEdgesAreAccepted) {
  v1::GenerateRequest request = Base();
  request.set_session("sessions/a");
  request.set_session_version(std::numeric_limits<uint64_t>::max());
  request.set_request_id(std::string(128, 'x'));
  auto* sampling = request.mutable_sampling();
  sampling->set_temperature(100);
  sampling->set_top_k(std::numeric_limits<int32_t>::max());
  sampling->set_top_p(1e-30f);
  sampling->set_min_p(1);
  sampling->set_repetition_penalty(10);
  sampling->set_presence_penalty(-10);
  sampling->set_frequency_penalty(10);
  for (int i = 0; i < 1024; ++i) (*sampling->mutable_logit_bias())[i] = -1000;
  request.mutable_stop()->set_max_tokens(0);
  for (int i = 0; i < 16; ++i) request.mutable_stop()->add_stop_strings(std::string(256, 's'));
  for (int i = 0; i < 64; ++i) request.mutable_stop()->add_stop_tokens(i);
  request.mutable_output()->set_top_logprobs(20);
  EXPECT_THAT(Violations(request), ElementsAre());
}

TEST(GenerateRequestTest, EachFieldIsNamedWhenItIsWrong) {
  const std::vector<Case> cases = {
    CASE("model", r->set_model(std::string(129, 'm'))),
    CASE("session", r->set_session("sessions/../x")),
    CASE("session_version", r->set_session_version(3)),
    CASE("request_id", r->set_request_id(std::string(129, 'x'))),
    CASE("add_bos", r->mutable_tokens()->add_ids(1); r->set_add_bos(true)),
    CASE("durability", r->set_durability(static_cast<v1::Durability>(7))),
    CASE("sampling.temperature", r->mutable_sampling()->set_temperature(-0.1f)),
    CASE("sampling.temperature", r->mutable_sampling()->set_temperature(kNan)),
    CASE("sampling.temperature", r->mutable_sampling()->set_temperature(kInfinity)),
    CASE("sampling.top_k", r->mutable_sampling()->set_top_k(-1)),
    CASE("sampling.top_p", r->mutable_sampling()->set_top_p(0)),
    CASE("sampling.top_p", r->mutable_sampling()->set_top_p(1.01f)),
    CASE("sampling.top_p", r->mutable_sampling()->set_top_p(kNan)),
    CASE("sampling.min_p", r->mutable_sampling()->set_min_p(-1)),
    CASE("sampling.min_p", r->mutable_sampling()->set_min_p(kNan)),
    CASE("sampling.repetition_penalty", r->mutable_sampling()->set_repetition_penalty(0)),
    CASE("sampling.repetition_penalty", r->mutable_sampling()->set_repetition_penalty(kNan)),
    CASE("sampling.presence_penalty", r->mutable_sampling()->set_presence_penalty(10.5f)),
    CASE("sampling.presence_penalty", r->mutable_sampling()->set_presence_penalty(kNan)),
    CASE("sampling.frequency_penalty", r->mutable_sampling()->set_frequency_penalty(-kInfinity)),
    CASE("sampling.logit_bias[5]", (*r->mutable_sampling()->mutable_logit_bias())[5] = 1001),
    CASE("sampling.logit_bias[5]", (*r->mutable_sampling()->mutable_logit_bias())[5] = kNan),
    CASE("sampling.logit_bias",
         for (int i = 0; i < 1025; ++i)(*r->mutable_sampling()->mutable_logit_bias())[i] = 1),
    CASE("stop.max_tokens", r->mutable_stop()->set_max_tokens(-1)),
    CASE("stop.max_tokens", r->mutable_stop()->set_max_tokens(std::numeric_limits<int32_t>::max())),
    CASE("stop.max_tokens", r->mutable_stop()->set_max_tokens(std::numeric_limits<int32_t>::min())),
    CASE("stop.stop_strings[0]", r->mutable_stop()->add_stop_strings(std::string())),
    CASE("stop.stop_strings[0]", r->mutable_stop()->add_stop_strings(std::string(257, 's'))),
    CASE("stop.stop_strings[0]", r->mutable_stop()->add_stop_strings("\xC3")),
    CASE("stop.stop_strings",
         for (int i = 0; i < 17; ++i) r->mutable_stop()->add_stop_strings(std::string(1, 's'))),
    CASE("stop.stop_tokens", for (int i = 0; i < 65; ++i) r->mutable_stop()->add_stop_tokens(i)),
    CASE("cache_marks[0]", r->add_cache_marks(0)),
    CASE("cache_marks[0]", r->add_cache_marks(std::numeric_limits<int64_t>::min())),
    CASE("cache_marks[0]", r->add_cache_marks(1'000'000)),
    CASE(
        "cache_marks[0]",
        r->add_cache_marks(
            static_cast<int64_t>(r->has_tokens() ? r->tokens().ids_size() : r->text().size()) + 1)),
    CASE("cache_marks", for (int i = 0; i < 9; ++i) r->add_cache_marks(1)),
    CASE("output.top_logprobs", r->mutable_output()->set_top_logprobs(21)),
    CASE("output.top_logprobs", r->mutable_output()->set_top_logprobs(-1)),
  };
  for (const Case& c : cases) {
    v1::GenerateRequest request = Base();
    c.change(&request);
    EXPECT_THAT(Violations(request), ElementsAre(c.field)) << request.ShortDebugString();
  }
}

TEST(GenerateRequestTest, AllViolationsComeInOneAnswer) {
  v1::GenerateRequest request = Base();
  request.mutable_sampling()->set_temperature(-1);
  request.mutable_sampling()->set_min_p(2);
  request.mutable_stop()->set_max_tokens(-5);
  EXPECT_THAT(Violations(request),
              ElementsAre("sampling.temperature", "sampling.min_p", "stop.max_tokens"));
}

TEST(GenerateRequestTest, BiasesAreInOrderWhateverTheMapsOrderIs) {
  v1::SamplingParams sampling;
  for (int32_t id : {9, 3, 200, 0}) (*sampling.mutable_logit_bias())[id] = static_cast<float>(id);
  const auto params = ToSampling(sampling, 7);
  EXPECT_THAT(params.logit_bias, ElementsAre(std::pair(0, 0.0f), std::pair(3, 3.0f),
                                             std::pair(9, 9.0f), std::pair(200, 200.0f)));
  EXPECT_EQ(params.seed, 7u);
  EXPECT_EQ(params.top_p, 1.0f);
  EXPECT_EQ(params.repetition_penalty, 1.0f);
}

}  // namespace
}  // namespace reprise::service
