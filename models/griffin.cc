#include "models/griffin.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/matmul.h"
#include "models/mixers/rg_lru_mixer.h"
#include "models/mixers/window_attention_mixer.h"

namespace reprise::models {
namespace {

// Positions are multiplied in float32 for the rotary angles and counted in int64 elsewhere; nothing
// real comes near, and sums of positions and rows stay far from overflow.
constexpr int64_t kMaxPosition = int64_t{1} << 40;

// Training multiplied the embeddings by sqrt(hidden) as a bfloat16, so the rounding is part of the
// model: 50.5 rather than 50.596 for a width of 2560.
float RoundToBf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  bits += 0x7fff + (bits >> 16 & 1);  // nearest, ties to even
  bits &= 0xffff0000u;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

constexpr float kNormOffset = 1.0f;  // norms multiply by 1 + weight

// Sizes of the decode steps that are recorded. Rows of padding cost little: products of few rows
// are bound by the weights.
constexpr int kRecordedRows[] = {1,  2,  4,  8,  12,  16,  24,  32,  40,  48,
                                 56, 64, 80, 96, 112, 128, 160, 192, 224, 256};

// One row for each sequence, and all of them want logits.
bool IsDecode(const RaggedBatch& batch, int max_rows) {
  const int rows = batch.num_rows();
  const int* size = std::lower_bound(std::begin(kRecordedRows), std::end(kRecordedRows), rows);
  if (rows == 0 || size == std::end(kRecordedRows) || *size > max_rows) return false;
  if (batch.num_seqs() != rows || static_cast<int>(batch.logit_rows.size()) != rows) return false;
  for (int s = 0; s < rows; ++s) {
    if (batch.seq_offsets[s] != s) return false;
  }
  return true;
}

template <typename... Parts>
absl::Status Malformed(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat("batch: ", parts...));
}

}  // namespace

Griffin::Griffin(const RecurrentGemmaConfig& config, ModelInfo info, int max_rows,
                 const kernels::Context& context)
    : config_(config),
      info_(std::move(info)),
      max_rows_(max_rows),
      context_(context),
      layout_(context.device) {}

absl::StatusOr<std::unique_ptr<Griffin>> Griffin::Create(const RecurrentGemmaConfig& config,
                                                         const Weights& weights, ModelInfo info,
                                                         int max_rows,
                                                         const kernels::Context& context) {
  auto model = std::unique_ptr<Griffin>(new Griffin(config, std::move(info), max_rows, context));
  RETURN_IF_ERROR(model->Load(weights));
  return model;
}

ModelPlan Griffin::Plan(const RecurrentGemmaConfig& config, const Weights& weights, int max_rows,
                        kernels::Device device) {
  StateLayout layout(device);
  for (int i = 0; i < config.num_layers; ++i) {
    if (config.blocks[i] == BlockType::kRecurrent) {
      RgLruMixer(config).DeclareState(i, layout);
    } else {
      WindowAttentionMixer(config).DeclareState(i, layout);
    }
  }
  ModelPlan plan;
  plan.weight_bytes = weights.BytesAtMost(config, device);
  plan.step_bytes = static_cast<size_t>(Activations::RowBytes(config, device)) * max_rows +
                    StepInputs::DeviceBytes(max_rows, device);
  plan.state_bytes = layout.bytes();
  plan.vocab_size = config.vocab_size;
  return plan;
}

absl::StatusOr<Griffin::Layer> Griffin::LoadLayer(const Weights& weights, int layer) const {
  Layer out;
  ASSIGN_OR_RETURN(out.temporal_norm, weights.Floats({WeightId::kTemporalNorm}, layer, context_));
  ASSIGN_OR_RETURN(out.channel_norm, weights.Floats({WeightId::kChannelNorm}, layer, context_));
  ASSIGN_OR_RETURN(out.mlp, GatedMlp::Load(weights, config_, layer, context_));
  if (config_.blocks[layer] == BlockType::kRecurrent) {
    ASSIGN_OR_RETURN(out.mixer, RgLruMixer::Load(weights, config_, layer, context_));
  } else {
    ASSIGN_OR_RETURN(out.mixer, WindowAttentionMixer::Load(weights, config_, layer, context_));
  }
  return out;
}

absl::Status Griffin::Load(const Weights& weights) {
  const WeightId head = config_.tie_word_embeddings ? WeightId::kEmbedding : WeightId::kLmHead;
  ASSIGN_OR_RETURN(embedding_dtype_, weights.Find(WeightId::kEmbedding, -1)->FloatDType());
  ASSIGN_OR_RETURN(embedding_, weights.Raw(WeightId::kEmbedding, -1, context_));
  ASSIGN_OR_RETURN(lm_head_, weights.Matrix({head}, -1, context_));
  ASSIGN_OR_RETURN(final_norm_, weights.Floats({WeightId::kFinalNorm}, -1, context_));
  if (config_.scale_embeddings) {
    embedding_scale_ =
        RoundToBf16(static_cast<float>(std::sqrt(static_cast<double>(config_.hidden_size))));
  }

  info_.weight_bytes = embedding_.size() + lm_head_.bytes() + final_norm_.size();
  for (int i = 0; i < config_.num_layers; ++i) {
    ASSIGN_OR_RETURN(Layer layer, LoadLayer(weights, i));
    layer.mixer->DeclareState(i, layout_);
    info_.weight_bytes += layer.temporal_norm.size() + layer.channel_norm.size() +
                          layer.mixer->bytes() + layer.mlp.bytes();
    layers_.push_back(std::move(layer));
  }
  info_.vocab_size = config_.vocab_size;
  info_.num_layers = config_.num_layers;
  info_.hidden_size = config_.hidden_size;
  info_.num_parameters = weights.num_parameters();
  info_.dtype = weights.dtype();
  ASSIGN_OR_RETURN(scratch_, Activations::Create(config_, max_rows_, context_));
  ASSIGN_OR_RETURN(inputs_, StepInputs::Create(max_rows_, context_));
  return absl::OkStatus();
}

absl::Status Griffin::Validate(const RaggedBatch& batch, const StateSlots& slots) const {
  const size_t seqs = batch.slots.size();
  if (batch.tokens.size() > static_cast<size_t>(max_rows_)) {
    return Malformed(batch.tokens.size(), " rows, at most ", max_rows_, " fit");
  }
  if (batch.seq_offsets.size() != seqs + 1 || batch.start_positions.size() != seqs) {
    return Malformed(seqs, " slots, ", batch.seq_offsets.size(), " offsets, ",
                     batch.start_positions.size(), " start positions");
  }
  if (slots.layout().bytes() != layout_.bytes() ||
      slots.layout().tensors().size() != layout_.tensors().size()) {
    return Malformed("the slots are of another layout");
  }
  RETURN_IF_ERROR(kernels::ValidateRaggedRows(batch.Rows(), slots.num_slots()));
  for (size_t s = 0; s < seqs; ++s) {
    if (batch.slots[s] >= 0 && !slots.held(batch.slots[s])) {
      return Malformed("slot ", batch.slots[s], " is not held");
    }
    if (batch.start_positions[s] > kMaxPosition) {
      return Malformed("start position ", batch.start_positions[s], " is above ", kMaxPosition);
    }
  }
  for (const int32_t token : batch.tokens) {
    if (token < 0 || token >= config_.vocab_size) {
      return Malformed("token ", token, " is outside the vocabulary of ", config_.vocab_size);
    }
  }
  int32_t last = -1;
  for (const int32_t row : batch.logit_rows) {
    if (row <= last || row >= batch.num_rows()) {
      return Malformed("logit row ", row, " after ", last, ", expected ascending rows below ",
                       batch.num_rows());
    }
    last = row;
  }
  return absl::OkStatus();
}

absl::Status Griffin::Embed(const StepView& view) const {
  kernels::EmbeddingParams params;
  params.num_rows = view.rows.num_rows;
  params.dim = config_.hidden_size;
  params.vocab = config_.vocab_size;
  params.dtype = embedding_dtype_;
  params.scale = embedding_scale_;
  params.ids = view.tokens;
  params.table = embedding_.data();
  if (context_.device == kernels::Device::kCuda) {
    params.residual = StreamInto(layers_[0].temporal_norm);
  } else {
    params.out = scratch_.residual.as<float>();
  }
  return kernels::Embedding(params, context_);
}

kernels::ResidualStream Griffin::StreamInto(const kernels::Buffer& next_norm) const {
  kernels::ResidualStream stream;
  stream.stream = scratch_.residual.as<float>();
  stream.weight = next_norm.as<float>();
  stream.weight_offset = kNormOffset;
  stream.weighted = scratch_.normed.as<kernels::BF16>();
  stream.squares = scratch_.squares.as<float>();
  stream.delta = scratch_.delta.as<float>();
  return stream;
}

absl::StatusOr<Operand> Griffin::LogitRows(const StepView& view) const {
  if (context_.device == kernels::Device::kCpu) {
    RETURN_IF_ERROR(Norm(view.num_logit_rows, final_norm_, /*add=*/true, view.logit_rows));
    return scratch_.Feed(scratch_.normed);
  }
  if (view.num_logit_rows == view.rows.num_rows) return Normed();
  kernels::PickRowsParams pick;
  pick.num_rows = view.num_logit_rows;
  pick.dim = config_.hidden_size;
  pick.row_ids = view.logit_rows;
  pick.weighted = scratch_.normed.as<kernels::BF16>();
  pick.squares = scratch_.squares.as<float>();
  pick.out_weighted = scratch_.picked.as<kernels::BF16>();
  pick.out_squares = scratch_.picked_squares.as<float>();
  RETURN_IF_ERROR(kernels::PickRows(pick, context_));
  return Operand{nullptr, pick.out_weighted, {pick.out_squares, config_.rms_norm_eps}};
}

Operand Griffin::Normed() const {
  Operand normed = scratch_.Feed(scratch_.normed);
  if (context_.device == kernels::Device::kCuda) {
    normed.norm = {scratch_.squares.as<float>(), config_.rms_norm_eps};
  }
  return normed;
}

absl::Status Griffin::Norm(int num_rows, const kernels::Buffer& weight, bool add,
                           const int32_t* row_ids) const {
  kernels::RmsNormParams params;
  params.num_rows = num_rows;
  params.dim = config_.hidden_size;
  params.eps = config_.rms_norm_eps;
  params.weight_offset = kNormOffset;
  params.delta = add ? scratch_.delta.as<float>() : nullptr;
  params.weight = weight.as<float>();
  params.x = scratch_.residual.as<float>();
  const Operand out = scratch_.Feed(scratch_.normed);
  params.out = out.f32;
  params.row_ids = row_ids;
  return kernels::RmsNorm(params, context_);
}

absl::Status Griffin::Head(const StepView& view, float* logits) const {
  ASSIGN_OR_RETURN(const Operand normed, LogitRows(view));
  kernels::MatMulParams params;
  params.num_rows = view.num_logit_rows;
  params.norm = normed.norm;
  params.x_stride = config_.hidden_size;
  params.out_stride = config_.vocab_size;
  params.x = normed.f32;
  params.x_bf16 = normed.bf16;
  params.weight = &lm_head_;
  params.out = logits;
  const bool cuda = context_.device == kernels::Device::kCuda;
  if (cuda) params.softcap = config_.logits_soft_cap;
  RETURN_IF_ERROR(kernels::MatMul(params, context_));
  if (cuda || config_.logits_soft_cap == 0.0f) return absl::OkStatus();

  kernels::SoftcapParams cap;
  cap.num_rows = params.num_rows;
  cap.dim = config_.vocab_size;
  cap.cap = config_.logits_soft_cap;
  cap.x = logits;
  return kernels::Softcap(cap, context_);
}

absl::Status Griffin::Run(const StepView& view, StateSlots& slots, float* logits) const {
  const MixerStep step = {view.rows, &scratch_, &slots, context_};
  if (scratch_.rope_cos.size() != 0) {
    kernels::RopeTableParams rope;
    rope.rows = step.rows;
    rope.rotary_dims = config_.rotary_dims;
    rope.theta = config_.rope_theta;
    rope.cos = scratch_.rope_cos.as<float>();
    rope.sin = scratch_.rope_sin.as<float>();
    RETURN_IF_ERROR(kernels::RopeTable(rope, context_));
  }

  RETURN_IF_ERROR(Embed(view));
  RETURN_IF_ERROR(context_.device == kernels::Device::kCuda ? LayersInChains(step)
                                                            : LayersInPasses(step));
  if (view.num_logit_rows == 0) return absl::OkStatus();
  return Head(view, logits);
}

absl::Status Griffin::LayersInPasses(const MixerStep& step) const {
  const int rows = step.rows.num_rows;
  const Operand normed = Normed();
  const Sink out = {.f32 = scratch_.delta.as<float>()};
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    RETURN_IF_ERROR(Norm(rows, layer.temporal_norm, /*add=*/i > 0));
    RETURN_IF_ERROR(kernels::MatMul(layer.mixer->First(step, normed), context_));
    RETURN_IF_ERROR(layer.mixer->Mix(step));
    RETURN_IF_ERROR(kernels::MatMul(layer.mixer->Last(step, out), context_));
    RETURN_IF_ERROR(Norm(rows, layer.channel_norm, /*add=*/true));
    RETURN_IF_ERROR(layer.mlp.Run(rows, normed, out, scratch_, context_));
  }
  return absl::OkStatus();
}

// Between two mixings all is products.
absl::Status Griffin::LayersInChains(const MixerStep& step) const {
  const Operand normed = Normed();
  RETURN_IF_ERROR(kernels::MatMul(layers_[0].mixer->First(step, normed), context_));
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    const Layer* const next = i + 1 < layers_.size() ? &layers_[i + 1] : nullptr;
    RETURN_IF_ERROR(layer.mixer->Mix(step));
    const Sink into_mlp = {.residual = StreamInto(layer.channel_norm)};
    const Sink onward = {
        .residual = StreamInto(next == nullptr ? final_norm_ : next->temporal_norm)};
    const auto mlp = layer.mlp.Products(step.rows.num_rows, normed, onward, scratch_);
    std::vector<kernels::MatMulParams> chain = {layer.mixer->Last(step, into_mlp), mlp[0], mlp[1]};
    if (next != nullptr) chain.push_back(next->mixer->First(step, normed));
    RETURN_IF_ERROR(kernels::MatMulChain(chain, context_));
  }
  return absl::OkStatus();
}

absl::Status Griffin::ReserveLogits(int rows) {
  const size_t bytes = sizeof(float) * rows * config_.vocab_size;
  if (logits_.size() >= bytes) return absl::OkStatus();
  logits_ = kernels::Buffer();
  ASSIGN_OR_RETURN(logits_, kernels::Buffer::Allocate(context_.device, bytes));
  return absl::OkStatus();
}

absl::Status Griffin::RunRecorded(const RaggedBatch& batch, StateSlots& slots) {
  const int seqs = batch.num_seqs();
  const int size = *std::lower_bound(std::begin(kRecordedRows), std::end(kRecordedRows), seqs);
  padded_ = batch;
  for (int s = seqs; s < size; ++s) {
    padded_.tokens.push_back(0);
    padded_.seq_offsets.push_back(s + 1);
    padded_.slots.push_back(-1);
    padded_.start_positions.push_back(0);
    padded_.logit_rows.push_back(s);
  }
  RETURN_IF_ERROR(ReserveLogits(size));
  ASSIGN_OR_RETURN(const StepView view, inputs_.Stage(padded_));
  Recording& recording = recordings_[size];
  float* const logits = logits_.as<float>();
  if (!recording.graph.valid() || recording.slots != slots.id() || recording.logits != logits) {
    RETURN_IF_ERROR(context_.queue->BeginCapture());
    const absl::Status recorded = Run(view, slots, logits);
    absl::StatusOr<kernels::DeviceGraph> graph = context_.queue->EndCapture();
    RETURN_IF_ERROR(recorded);
    RETURN_IF_ERROR(graph.status());
    recording = {slots.id(), logits, *std::move(graph)};
  }
  return context_.queue->Launch(recording.graph);
}

absl::StatusOr<float*> Griffin::ForwardOnDevice(const RaggedBatch& batch, StateSlots& slots) {
  RETURN_IF_ERROR(Validate(batch, slots));
  if (batch.num_rows() == 0) return logits_.as<float>();
  if (context_.device == kernels::Device::kCuda && IsDecode(batch, max_rows_)) {
    RETURN_IF_ERROR(RunRecorded(batch, slots));
    return logits_.as<float>();
  }
  RETURN_IF_ERROR(ReserveLogits(static_cast<int>(batch.logit_rows.size())));
  ASSIGN_OR_RETURN(const StepView view, inputs_.Stage(batch));
  RETURN_IF_ERROR(Run(view, slots, logits_.as<float>()));
  return logits_.as<float>();
}

absl::Status Griffin::Forward(const RaggedBatch& batch, StateSlots& slots,
                              absl::Span<float> logits) {
  if (logits.size() != batch.logit_rows.size() * static_cast<size_t>(config_.vocab_size)) {
    return Malformed("logits of ", logits.size(), " floats, expected ", batch.logit_rows.size(),
                     " x ", config_.vocab_size);
  }
  if (context_.device == kernels::Device::kCpu) {
    RETURN_IF_ERROR(Validate(batch, slots));
    if (batch.num_rows() == 0) return absl::OkStatus();
    ASSIGN_OR_RETURN(const StepView view, inputs_.Stage(batch));
    return Run(view, slots, logits.data());
  }
  ASSIGN_OR_RETURN(const float* on_device, ForwardOnDevice(batch, slots));
  RETURN_IF_ERROR(
      context_.queue->Download(logits.data(), on_device, logits.size() * sizeof(float)));
  return context_.queue->Synchronize();
}

}  // namespace reprise::models
