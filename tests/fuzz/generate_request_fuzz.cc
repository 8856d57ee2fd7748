// A GenerateRequest from anyone: refused with a reason, or within every limit that the rest of the
// server relies on.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <utility>

#include "reprise/v1/generation.pb.h"
#include "scheduler/testing/puppet_model.h"
#include "service/errors.h"
#include "service/generate_request.h"
#include "service/status_to_grpc.h"
#include "tests/service/testing/byte_tokenizer.h"

namespace reprise::service {
namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

const RequestLimits& Limits() {
  static const RequestLimits& limits = *new RequestLimits([] {
    RequestLimits made;
    made.max_prompt_tokens = 4096;
    made.max_sync_replicas = 2;
    return made;
  }());
  return limits;
}

const ServedModel& Model() {
  static const ServedModel& model = *[] {
    auto made = std::make_unique<ServedModel>();
    made->name = "puppet";
    scheduler::PuppetModel::Options puppet;
    puppet.vocab_size = testing::ByteTokenizer::kVocabulary;
    made->model = std::make_unique<scheduler::PuppetModel>(puppet);
    made->tokenizer = std::make_unique<testing::ByteTokenizer>();
    return made.release();
  }();
  return model;
}

// What a client would be sent; bounded and in order whatever the request was.
void CheckRefusal(const absl::Status& status) {
  Require(absl::IsInvalidArgument(status));
  Require(ReasonOf(status) != v1::ERROR_REASON_UNSPECIFIED);
  const grpc::Status wire = ToGrpcStatus(status);
  Require(wire.error_message().size() <= 512 && wire.error_details().size() <= 8192);
}

void RunOne(const v1::GenerateRequest& request, bool continues) {
  if (const absl::Status fields = CheckFields(request, Limits()); !fields.ok()) {
    return CheckRefusal(fields);
  }
  if (const absl::Status ids = CheckVocabulary(request, Model()); !ids.ok()) {
    return CheckRefusal(ids);
  }
  const auto prompt = EncodePrompt(request, Model(), Limits(), continues);
  if (!prompt.ok()) return CheckRefusal(prompt.status());
  Require(static_cast<int64_t>(prompt->size()) <= Limits().max_prompt_tokens);
  Require(continues || !prompt->empty());
  for (const int32_t id : *prompt) Require(id >= 0 && id < Model().vocab_size());
  const auto marks = CacheMarks(request, Model(), Limits(), continues, *prompt);
  if (!marks.ok()) return CheckRefusal(marks.status());
  for (const int64_t mark : *marks) {
    Require(mark >= 0 && mark <= static_cast<int64_t>(prompt->size()));
  }
  const kernels::SamplingParams sampling = ToSampling(request.sampling(), 1);
  Require(std::isfinite(sampling.temperature) && sampling.temperature >= 0);
  for (const int32_t id : StopTokens(request.stop(), Model())) {
    Require(id >= 0 && id < Model().vocab_size());
  }
  const v1::StopConditions& stop = request.stop();
  Require(!stop.has_max_tokens() ||
          (stop.max_tokens() >= 0 && stop.max_tokens() <= Limits().max_tokens));
}

}  // namespace
}  // namespace reprise::service

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  reprise::v1::GenerateRequest request;
  if (!request.ParseFromArray(data + 1, static_cast<int>(size - 1))) return 0;
  reprise::service::RunOne(request, data[0] % 2 == 1);
  return 0;
}
