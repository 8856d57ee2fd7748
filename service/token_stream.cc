#include "service/token_stream.h"

#include <algorithm>
#include <utility>

namespace reprise::service {
namespace {

std::string Bytes(const models::Tokenizer* tokenizer, int32_t id) {
  if (tokenizer == nullptr) return "";
  // The model may have padding rows behind the tokenizer's vocabulary; they stand for no text.
  return tokenizer->TokenBytes(id).value_or("");
}

}  // namespace

TokenStream::TokenStream(const models::Tokenizer* tokenizer, Options options)
    : tokenizer_(tokenizer), options_(std::move(options)), matcher_(options_.stop_strings) {
  if (tokenizer_ != nullptr) {
    detokenizer_.emplace(tokenizer_, models::TextStart::kContinuation);
    state_ = detokenizer_->SaveState();
  }
}

absl::Status TokenStream::Resume(const std::string& detokenizer_state) {
  if (!detokenizer_.has_value() || detokenizer_state.empty()) return absl::OkStatus();
  state_ = detokenizer_state;
  return detokenizer_->RestoreState(detokenizer_state);
}

bool TokenStream::Append(const kernels::SampledToken& token, v1::Tokens* event) {
  event->add_ids(token.id);
  if (options_.logprobs) *event->add_logprobs() = DescribeToken(token, tokenizer_);
  const auto& silent = options_.silent_tokens;
  if (!detokenizer_.has_value() ||
      std::find(silent.begin(), silent.end(), token.id) != silent.end()) {
    return false;
  }
  // OUT_OF_RANGE is a padding row, see above: no text.
  const std::string text = matcher_.Feed(detokenizer_->Append(token.id).value_or(""));
  if (!options_.omit_text) event->mutable_text()->append(text);
  return matcher_.matched();
}

std::string TokenStream::Finish() {
  if (!detokenizer_.has_value()) return "";
  state_ = detokenizer_->SaveState();
  if (matcher_.matched()) return "";
  std::string text = matcher_.Flush();
  text += detokenizer_->Flush();
  return options_.omit_text ? "" : text;
}

v1::TokenLogprob DescribeToken(const kernels::SampledToken& token,
                               const models::Tokenizer* tokenizer) {
  v1::TokenLogprob described;
  described.set_id(token.id);
  described.set_logprob(token.logprob);
  described.set_token(Bytes(tokenizer, token.id));
  for (const kernels::TokenLogprob& other : token.top) {
    v1::TokenLogprob* top = described.add_top();
    top->set_id(other.id);
    top->set_logprob(other.logprob);
    top->set_token(Bytes(tokenizer, other.id));
  }
  return described;
}

}  // namespace reprise::service
