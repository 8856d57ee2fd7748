#include "models/tokenizer/detokenizer.h"

#include <utility>

#include "base/status_macros.h"
#include "models/tokenizer/text.h"
#include "models/tokenizer/utf8.h"

namespace reprise::models {
namespace {

using Bytes = DecodeRules::Bytes;
using First = DecodeRules::First;

// SaveState: version, Bytes rule, flags, strip_left as four little-endian bytes, pending bytes.
// The numbers are frozen: snapshots carry them.
constexpr char kStateVersion = 1;
constexpr size_t kStateHeader = 7;
constexpr size_t kMaxPending = 1 << 24;
constexpr uint8_t kFlagFirst = 1;
constexpr uint8_t kFlagBroken = 2;

void AppendReplacements(size_t count, std::string* out) {
  for (size_t i = 0; i < count; ++i) out->append(kReplacementCharacter);
}

// Whether `bytes`, of which the first `*whole` are whole characters, is text plus at most the
// beginning of one more character. Advances `*whole`.
bool MayBecomeText(std::string_view bytes, size_t* whole) {
  const size_t bad = FindInvalidUtf8(bytes.substr(*whole));
  *whole = bad == std::string_view::npos ? bytes.size() : *whole + bad;
  return *whole == bytes.size() ||
         ClassifyUtf8(bytes.substr(*whole)).kind == Utf8Prefix::kIncomplete;
}

}  // namespace

Detokenizer::Detokenizer(const Tokenizer* tokenizer, TextStart start)
    : tokenizer_(tokenizer),
      first_(start == TextStart::kBeginning && tokenizer->decode_rules().first != First::kNone),
      strip_left_(start == TextStart::kBeginning ? tokenizer->decode_rules().strip_count : 0) {}

absl::StatusOr<std::string> Detokenizer::Append(int32_t id) {
  const DecodeRules& rules = tokenizer_->decode_rules();
  ASSIGN_OR_RETURN(std::string bytes, tokenizer_->TokenBytes(id));
  std::string out;
  if (tokenizer_->IsControl(id)) {
    if (rules.control_ends_run) EndRun(&out);
    StripBeginning(&out);
    return out;
  }
  if (first_) {
    ASSIGN_OR_RETURN(std::string first_bytes, tokenizer_->FirstTokenBytes(id));
    const bool stripped = first_bytes != bytes;
    bytes = std::move(first_bytes);
    first_ = rules.first != First::kFirstToken && bytes.empty() &&
             !(rules.first == First::kUntilStripped && stripped);
  }
  if (rules.bytes == Bytes::kStream || tokenizer_->IsByte(id)) {
    pending_ += bytes;
    DrainPending(&out);
  } else {
    EndRun(&out);
    out += bytes;
  }
  StripBeginning(&out);
  return out;
}

std::string Detokenizer::Flush() {
  std::string out;
  EndRun(&out);
  StripBeginning(&out);
  return out;
}

void Detokenizer::DrainPending(std::string* out) {
  const Bytes rule = tokenizer_->decode_rules().bytes;
  if (rule == Bytes::kRunWhole) {
    if (!run_broken_ && MayBecomeText(pending_, &whole_)) return;  // only the run's end will tell
    run_broken_ = true;
    AppendReplacements(pending_.size(), out);
    pending_.clear();
    whole_ = 0;
    return;
  }
  size_t done = 0;
  while (done < pending_.size()) {
    const Utf8Prefix prefix = ClassifyUtf8(std::string_view(pending_).substr(done));
    if (prefix.kind == Utf8Prefix::kIncomplete) break;
    if (prefix.kind == Utf8Prefix::kCharacter) {
      out->append(pending_, done, prefix.length);
      done += prefix.length;
    } else {
      out->append(kReplacementCharacter);
      done += rule == Bytes::kStream ? prefix.length : 1;
    }
  }
  pending_.erase(0, done);
}

void Detokenizer::EndRun(std::string* out) {
  switch (tokenizer_->decode_rules().bytes) {
    case Bytes::kStream:
      if (!pending_.empty()) out->append(kReplacementCharacter);
      break;
    case Bytes::kRunPerByte:
      AppendReplacements(pending_.size(), out);
      break;
    case Bytes::kRunWhole:
      if (IsValidUtf8(pending_)) {
        out->append(pending_);
      } else {
        AppendReplacements(pending_.size(), out);
      }
      break;
  }
  pending_.clear();
  whole_ = 0;
  run_broken_ = false;
}

void Detokenizer::StripBeginning(std::string* out) {
  if (strip_left_ == 0 || out->empty()) return;
  const std::string& strip = tokenizer_->decode_rules().strip_text;
  size_t cut = 0;
  while (strip_left_ > 0 && out->compare(cut, strip.size(), strip) == 0) {
    cut += strip.size();
    --strip_left_;
  }
  out->erase(0, cut);
  if (!out->empty()) strip_left_ = 0;
}

std::string Detokenizer::SaveState() const {
  std::string state;
  state.push_back(kStateVersion);
  state.push_back(static_cast<char>(tokenizer_->decode_rules().bytes));
  state.push_back(static_cast<char>((first_ ? kFlagFirst : 0) | (run_broken_ ? kFlagBroken : 0)));
  for (int shift = 0; shift < 32; shift += 8) {
    state.push_back(static_cast<char>((strip_left_ >> shift) & 0xFF));
  }
  return state + pending_;
}

absl::Status Detokenizer::RestoreState(std::string_view state) {
  const DecodeRules& rules = tokenizer_->decode_rules();
  const auto bad = [](std::string_view what) {
    return absl::DataLossError(Cat("detokenizer state: ", what));
  };
  if (state.size() < kStateHeader) return bad("too short");
  if (state.size() > kStateHeader + kMaxPending) return bad("too long");
  if (state[0] != kStateVersion) return bad("unknown version");
  if (state[1] != static_cast<char>(rules.bytes)) return bad("made for another kind of tokenizer");
  const uint8_t flags = static_cast<uint8_t>(state[2]);
  if ((flags & ~(kFlagFirst | kFlagBroken)) != 0) return bad("unknown flags");
  const bool first = (flags & kFlagFirst) != 0;
  const bool broken = (flags & kFlagBroken) != 0;
  if (first && rules.first == First::kNone) return bad("beginning flag does not fit the tokenizer");
  if (broken && rules.bytes != Bytes::kRunWhole) return bad("run flag does not fit the tokenizer");
  uint32_t strip_left = 0;
  for (int i = 0; i < 4; ++i) {
    strip_left |= static_cast<uint32_t>(static_cast<uint8_t>(state[3 + i])) << (8 * i);
  }
  if (strip_left > rules.strip_count) return bad("strip count does not fit the tokenizer");
  const std::string_view pending = state.substr(kStateHeader);
  size_t whole = 0;
  const bool fits =
      rules.bytes == Bytes::kRunWhole
          ? MayBecomeText(pending, &whole) && !(broken && !pending.empty())
          : pending.empty() || (ClassifyUtf8(pending).kind == Utf8Prefix::kIncomplete);
  if (!fits) return bad("pending bytes are no beginning of a character");
  first_ = first;
  run_broken_ = broken;
  strip_left_ = strip_left;
  pending_ = std::string(pending);
  whole_ = whole;
  return absl::OkStatus();
}

absl::StatusOr<std::string> DecodeAll(const Tokenizer& tokenizer, absl::Span<const int32_t> ids) {
  Detokenizer detokenizer(&tokenizer, TextStart::kBeginning);
  std::string text;
  for (const int32_t id : ids) {
    ASSIGN_OR_RETURN(const std::string part, detokenizer.Append(id));
    text += part;
  }
  return text + detokenizer.Flush();
}

}  // namespace reprise::models
