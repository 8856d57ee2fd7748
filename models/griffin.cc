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
  params.out = scratch_.residual.as<float>();
  return kernels::Embedding(params, context_);
}

absl::Status Griffin::Norm(int num_rows, const kernels::Buffer& weight, bool add,
                           const int32_t* row_ids) const {
  kernels::RmsNormParams params;
  params.num_rows = num_rows;
  params.dim = config_.hidden_size;
  params.eps = config_.rms_norm_eps;
  params.weight_offset = 1.0f;
  params.delta = add ? scratch_.delta.as<float>() : nullptr;
  params.weight = weight.as<float>();
  params.x = scratch_.residual.as<float>();
  const Operand out = scratch_.Feed(scratch_.normed);
  params.out = out.f32;
  params.out_bf16 = out.bf16;
  params.row_ids = row_ids;
  return kernels::RmsNorm(params, context_);
}

absl::Status Griffin::Head(const StepView& view, float* logits) const {
  const Operand normed = scratch_.Feed(scratch_.normed);
  kernels::MatMulParams params;
  params.num_rows = view.num_logit_rows;
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

std::vector<kernels::DecodeOp> Griffin::DecodeOps(const MixerStep& step, float* logits) const {
  float* const delta = scratch_.delta.as<float>();
  float* residual = scratch_.residual.as<float>();
  float* next = scratch_.residual_next.as<float>();
  bool add = false;
  // A product of the normed residual, to which delta is added first.
  const auto normed = [&](const kernels::Buffer& weight) {
    kernels::DecodeProduct op;
    op.matmul.num_rows = op.norm.num_rows = step.rows.num_rows;
    op.matmul.x_stride = op.norm.dim = config_.hidden_size;
    op.matmul.x_bf16 = scratch_.Feed(scratch_.normed).bf16;
    op.norm.eps = config_.rms_norm_eps;
    op.norm.weight_offset = 1.0f;
    op.norm.weight = weight.as<float>();
    op.norm.x = residual;
    if (add) {
      op.norm.delta = delta;
      op.residual = next;
      std::swap(residual, next);
    }
    add = true;
    return op;
  };
  std::vector<kernels::DecodeOp> ops;
  for (const Layer& layer : layers_) {
    layer.mixer->AppendDecode(step, normed(layer.temporal_norm), delta, ops);
    layer.mlp.AppendDecode(normed(layer.channel_norm), delta, scratch_, ops);
  }
  kernels::DecodeProduct head = normed(final_norm_);
  head.matmul.out_stride = config_.vocab_size;
  head.matmul.weight = &lm_head_;
  head.matmul.out = logits;
  head.matmul.softcap = config_.logits_soft_cap;
  ops.push_back(head);
  return ops;
}

absl::Status Griffin::Run(const StepView& view, StateSlots& slots, float* logits) const {
  const int rows = view.rows.num_rows;
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
  const bool decode = view.rows.max_seq_rows == 1 && view.num_logit_rows == rows;
  if (context_.device == kernels::Device::kCuda && decode && rows <= kernels::kMostDecodeRows) {
    const std::vector<kernels::DecodeOp> ops = DecodeOps(step, logits);
    if (kernels::CanDecode(ops, context_)) return kernels::Decode(ops, context_);
  }
  const Operand normed = scratch_.Feed(scratch_.normed);
  float* delta = scratch_.delta.as<float>();
  bool add = false;
  for (const Layer& layer : layers_) {
    RETURN_IF_ERROR(Norm(rows, layer.temporal_norm, add));
    RETURN_IF_ERROR(layer.mixer->Run(step, normed, delta));
    RETURN_IF_ERROR(Norm(rows, layer.channel_norm, /*add=*/true));
    RETURN_IF_ERROR(layer.mlp.Run(rows, normed, delta, scratch_, context_));
    add = true;
  }
  if (view.num_logit_rows == 0) return absl::OkStatus();
  RETURN_IF_ERROR(Norm(view.num_logit_rows, final_norm_, add, view.logit_rows));
  return Head(view, logits);
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
