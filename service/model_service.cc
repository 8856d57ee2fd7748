#include "service/model_service.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "models/tokenizer/utf8.h"
#include "service/errors.h"
#include "service/unary_call.h"

namespace reprise::service {
namespace {

v1::Model DescribeModel(const ServedModel& served, const RequestLimits& limits) {
  const models::ModelInfo& info = served.model->info();
  v1::Model model;
  model.set_name(served.name);
  model.set_architecture(info.architecture);
  model.set_num_parameters(info.num_parameters);
  model.set_vocab_size(info.vocab_size);
  model.set_num_layers(info.num_layers);
  model.set_hidden_size(info.hidden_size);
  model.set_dtype(info.dtype);
  model.set_state_bytes(static_cast<int64_t>(served.layout().bytes()));
  model.set_weights_fingerprint(served.identity.weights_fingerprint);
  model.set_tokenizer_fingerprint(served.identity.tokenizer_fingerprint);
  model.set_layout_digest(served.identity.layout_digest);
  model.set_numerics_id(served.identity.numerics_id);
  model.set_device(served.device == kernels::Device::kCpu ? "cpu" : "cuda");
  model.set_max_prompt_tokens(limits.max_prompt_tokens);
  model.set_max_tokens(limits.max_tokens);
  model.set_default_max_tokens(limits.default_max_tokens);
  if (served.tokenizer != nullptr) {
    if (auto bos = served.tokenizer->bos_id()) model.set_bos_token(*bos);
    if (auto eos = served.tokenizer->eos_id()) model.set_eos_token(*eos);
  }
  for (const models::StateTensor& tensor : served.layout().tensors()) {
    v1::StateTensor* described = model.add_state_tensors();
    described->set_name(tensor.Name());
    described->set_dtype(kernels::DTypeName(tensor.dtype));
    for (int64_t extent : tensor.shape) described->add_shape(extent);
  }
  return model;
}

absl::StatusOr<const models::Tokenizer*> FindTokenizer(const Environment& environment,
                                                       const std::string& name) {
  ASSIGN_OR_RETURN(const ServedModel* model, environment.models->Find(name, "model"));
  if (model->tokenizer == nullptr) return FieldError("model", "has no tokenizer");
  return model->tokenizer.get();
}

absl::StatusOr<v1::TokenizeResponse> RunTokenize(const Environment& environment,
                                                 const v1::TokenizeRequest& request) {
  ASSIGN_OR_RETURN(const models::Tokenizer* tokenizer, FindTokenizer(environment, request.model()));
  if (const size_t bad = models::FindInvalidUtf8(request.text()); bad != std::string::npos) {
    return MakeError(v1::ERROR_REASON_INVALID_UTF8, absl::StrCat("text: not UTF-8 at byte ", bad),
                     {{"field", "text"}, {"offset", absl::StrCat(bad)}});
  }
  models::EncodeOptions options;
  options.add_bos = request.add_bos();
  options.parse_special = request.parse_special();
  ASSIGN_OR_RETURN(const std::vector<int32_t> ids, tokenizer->Encode(request.text(), options));
  v1::TokenizeResponse response;
  for (int32_t id : ids) {
    response.add_ids(id);
    ASSIGN_OR_RETURN(*response.add_tokens(), tokenizer->TokenBytes(id));
  }
  return response;
}

absl::StatusOr<v1::DetokenizeResponse> RunDetokenize(const Environment& environment,
                                                     const v1::DetokenizeRequest& request) {
  ASSIGN_OR_RETURN(const models::Tokenizer* tokenizer, FindTokenizer(environment, request.model()));
  for (int i = 0; i < request.ids_size(); ++i) {
    if (request.ids(i) < 0 || request.ids(i) >= tokenizer->vocab_size()) {
      return FieldError(absl::StrCat("ids[", i, "]"),
                        absl::StrCat("must be a token id from 0 to ", tokenizer->vocab_size() - 1,
                                     ", is ", request.ids(i)));
    }
  }
  v1::DetokenizeResponse response;
  ASSIGN_OR_RETURN(*response.mutable_text(), tokenizer->Decode(absl::MakeConstSpan(
                                                 request.ids().data(), request.ids_size())));
  return response;
}

}  // namespace

grpc::ServerUnaryReactor* ModelService::ListModels(Context* context, const Buffer* in,
                                                   Buffer* out) {
  return ServeUnary<v1::ListModelsRequest>(
      environment_, context, in, out,
      [this](const std::string&,
             const v1::ListModelsRequest&) -> absl::StatusOr<v1::ListModelsResponse> {
        v1::ListModelsResponse response;
        for (const auto& model : environment_->models->models()) {
          *response.add_models() = DescribeModel(*model, environment_->limits);
        }
        return response;
      });
}

grpc::ServerUnaryReactor* ModelService::GetModel(Context* context, const Buffer* in, Buffer* out) {
  return ServeUnary<v1::GetModelRequest>(
      environment_, context, in, out,
      [this](const std::string&, const v1::GetModelRequest& request) -> absl::StatusOr<v1::Model> {
        ASSIGN_OR_RETURN(const ServedModel* model,
                         environment_->models->Find(request.name(), "name"));
        return DescribeModel(*model, environment_->limits);
      });
}

grpc::ServerUnaryReactor* ModelService::Tokenize(Context* context, const Buffer* in, Buffer* out) {
  return ServeUnary<v1::TokenizeRequest>(
      environment_, context, in, out,
      [this](const std::string&, const v1::TokenizeRequest& request) {
        return RunTokenize(*environment_, request);
      });
}

grpc::ServerUnaryReactor* ModelService::Detokenize(Context* context, const Buffer* in,
                                                   Buffer* out) {
  return ServeUnary<v1::DetokenizeRequest>(
      environment_, context, in, out,
      [this](const std::string&, const v1::DetokenizeRequest& request) {
        return RunDetokenize(*environment_, request);
      });
}

}  // namespace reprise::service
