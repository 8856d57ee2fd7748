#include "models/tokenizer/hf_bpe.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <queue>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "models/tokenizer/hf_byte_level.h"
#include "models/tokenizer/text.h"
#include "models/tokenizer/utf8.h"

namespace reprise::models {
namespace {

uint64_t PairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
}

// A merge is "left right" or ["left", "right"].
absl::Status SplitMerge(const nlohmann::json& merge, std::string_view* left,
                        std::string_view* right) {
  if (const auto* text = merge.get_ptr<const std::string*>()) {
    const size_t space = text->find(' ');
    if (space != std::string::npos && text->find(' ', space + 1) == std::string::npos) {
      *left = std::string_view(*text).substr(0, space);
      *right = std::string_view(*text).substr(space + 1);
      return absl::OkStatus();
    }
  } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
             merge[1].is_string()) {
    *left = *merge[0].get_ptr<const std::string*>();
    *right = *merge[1].get_ptr<const std::string*>();
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError("must be two tokens");
}

absl::Status RefuseAffix(const JsonRef& model, std::string_view key) {
  const auto member = model.Find(key);
  if (!member) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::string affix, member->String());
  return affix.empty() ? absl::OkStatus() : member->Unimplemented("an affix of subwords");
}

}  // namespace

absl::StatusOr<HfBpe> HfBpe::FromJson(const JsonRef& model, const HfVocab* vocab, bool byte_level,
                                      const std::vector<bool>& is_control) {
  RETURN_IF_ERROR(model.OnlyKeys({"type", "dropout", "unk_token", "continuing_subword_prefix",
                                  "end_of_word_suffix", "fuse_unk", "byte_fallback",
                                  "ignore_merges", "vocab", "merges"}));
  HfBpe bpe;
  bpe.vocab_ = vocab;
  bpe.byte_level_ = byte_level;
  bpe.is_control_ = is_control;
  if (const auto dropout = model.Find("dropout")) {
    if (!dropout->raw().is_number()) return dropout->Invalid("must be a number");
    if (dropout->raw().get<double>() != 0) return dropout->Unimplemented("dropout");
  }
  RETURN_IF_ERROR(RefuseAffix(model, "continuing_subword_prefix"));
  RETURN_IF_ERROR(RefuseAffix(model, "end_of_word_suffix"));
  ASSIGN_OR_RETURN(bpe.fuse_unk_, model.BoolOr("fuse_unk", false));
  ASSIGN_OR_RETURN(bpe.byte_fallback_, model.BoolOr("byte_fallback", false));
  ASSIGN_OR_RETURN(bpe.ignore_merges_, model.BoolOr("ignore_merges", false));
  if (const auto unk = model.Find("unk_token")) {
    ASSIGN_OR_RETURN(const std::string text, unk->String());
    bpe.unk_id_ = vocab->FindInModel(text);
    if (!bpe.unk_id_) return unk->Invalid(Cat("'", text, "' is not in the vocabulary"));
  }
  ASSIGN_OR_RETURN(const JsonRef merges, model.Require("merges"));
  RETURN_IF_ERROR(bpe.ReadMerges(merges, is_control));
  for (int byte = 0; byte < 256; ++byte) {
    bpe.byte_ids_[byte] = bpe.TextToken(absl::StrFormat("<0x%02X>", byte));
  }
  if (byte_level) {
    for (int byte = 0; byte < 256; ++byte) {
      bpe.byte_starts_[byte] = bpe.StartOf(ByteLevelCharacter(static_cast<uint8_t>(byte)));
    }
  }
  return bpe;
}

absl::Status HfBpe::ReadMerges(const JsonRef& merges, const std::vector<bool>& is_control) {
  if (!merges.raw().is_array()) return merges.Invalid("must be an array");
  merges_.reserve(merges.raw().size());
  uint32_t rank = 0;
  std::string joined;
  for (const nlohmann::json& merge : merges.raw()) {
    const auto where = [&] { return JsonRef(&merge, Cat(merges.path(), "/", rank)); };
    std::string_view left, right;
    if (const auto* text = merge.get_ptr<const std::string*>();
        text != nullptr && text->starts_with("#version")) {
      continue;  // the head of a merges.txt
    }
    const absl::Status split = SplitMerge(merge, &left, &right);
    if (!split.ok()) return where().Invalid(Cat(split.message()));
    joined.assign(left);
    joined += right;
    for (const std::string_view token : {left, right, std::string_view(joined)}) {
      if (vocab_->FindInModel(token)) continue;
      return where().Invalid(Cat("'", token, "' is not in the vocabulary"));
    }
    const int32_t id = *vocab_->FindInModel(joined);
    // A later merge of the same pair replaces the earlier one, rank and all.
    if (!is_control[id]) {
      merges_[PairKey(*vocab_->FindInModel(left), *vocab_->FindInModel(right))] = {rank, id};
    }
    ++rank;
  }
  return absl::OkStatus();
}

std::optional<int32_t> HfBpe::TextToken(std::string_view text) const {
  const std::optional<int32_t> id = vocab_->FindInModel(text);
  if (id && is_control_[*id]) return std::nullopt;
  return id;
}

HfBpe::Start HfBpe::StartOf(std::string_view character) const {
  Start start;
  if (const std::optional<int32_t> id = TextToken(character)) {
    start.known = true;
    start.ids.push_back(*id);
    return start;
  }
  if (byte_fallback_) {
    bool complete = true;
    for (const char c : character) {
      const std::optional<int32_t> id = byte_ids_[static_cast<uint8_t>(c)];
      complete = complete && id.has_value();
      if (complete) start.ids.push_back(*id);
    }
    if (complete) return start;
    start.ids.clear();
  }
  // Without an unknown token the character is dropped, as the reference drops it.
  start.unknown = unk_id_.has_value();
  return start;
}

void HfBpe::AppendStarts(std::string_view word, std::vector<int32_t>* symbols) const {
  // The reference holds an unknown token back until a known character follows, so that it comes
  // behind the bytes of a fallback in between. Kept, for equal ids.
  bool held = false;
  const auto add = [&](const Start& start) {
    if (start.unknown) {
      if (held && !fuse_unk_) symbols->push_back(*unk_id_);
      held = true;
      return;
    }
    if (start.known && held) {
      symbols->push_back(*unk_id_);
      held = false;
    }
    symbols->insert(symbols->end(), start.ids.begin(), start.ids.end());
  };
  if (byte_level_) {
    for (const char c : word) add(byte_starts_[static_cast<uint8_t>(c)]);
  } else {
    for (size_t offset = 0; offset < word.size();) {
      const size_t length = std::min(Utf8Length(word[offset]), word.size() - offset);
      const std::string_view character = word.substr(offset, length);
      if (const std::optional<int32_t> id = TextToken(character)) {
        if (held) symbols->push_back(*unk_id_);
        held = false;
        symbols->push_back(*id);
      } else {
        add(StartOf(character));
      }
      offset += length;
    }
  }
  if (held) symbols->push_back(*unk_id_);
}

std::optional<int32_t> HfBpe::WholeWord(std::string_view word) const {
  if (!byte_level_) return TextToken(word);
  std::string text;
  for (const char c : word) text += ByteLevelCharacter(static_cast<uint8_t>(c));
  return TextToken(text);
}

void HfBpe::Encode(std::string_view word, std::vector<int32_t>* ids) const {
  if (word.empty()) return;
  if (ignore_merges_) {
    if (const std::optional<int32_t> id = WholeWord(word)) {
      ids->push_back(*id);
      return;
    }
  }
  std::vector<int32_t> symbols;
  symbols.reserve(word.size());
  AppendStarts(word, &symbols);
  MergeAll(std::move(symbols), ids);
}

void HfBpe::MergeAll(std::vector<int32_t> symbols, std::vector<int32_t>* ids) const {
  // A linked list of symbols, and a queue of merges that may have gone stale.
  constexpr int32_t kNone = -1;
  constexpr int32_t kGone = -1;  // in `symbols`
  const int32_t count = static_cast<int32_t>(symbols.size());
  std::vector<int32_t> previous(count), next(count);
  for (int32_t i = 0; i < count; ++i) {
    previous[i] = i - 1;
    next[i] = i + 1 < count ? i + 1 : kNone;
  }
  struct Candidate {
    uint32_t rank;
    int32_t position, id;
    bool operator<(const Candidate& other) const {  // the queue's top is its greatest
      return rank != other.rank ? rank > other.rank : position > other.position;
    }
  };
  std::vector<Candidate> storage;
  storage.reserve(count);
  std::priority_queue<Candidate> queue(std::less<Candidate>(), std::move(storage));
  const auto consider = [&](int32_t left, int32_t right) {
    const auto it = merges_.find(PairKey(symbols[left], symbols[right]));
    if (it != merges_.end()) queue.push({it->second.rank, left, it->second.id});
  };
  for (int32_t i = 0; i + 1 < count; ++i) consider(i, i + 1);
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    const int32_t left = top.position;
    if (symbols[left] == kGone || next[left] == kNone) continue;
    const int32_t right = next[left];
    const auto it = merges_.find(PairKey(symbols[left], symbols[right]));
    if (it == merges_.end() || it->second.id != top.id) continue;
    symbols[left] = top.id;
    symbols[right] = kGone;
    next[left] = next[right];
    if (next[left] != kNone) previous[next[left]] = left;
    if (previous[left] != kNone) consider(previous[left], left);
    if (next[left] != kNone) consider(left, next[left]);
  }
  for (const int32_t symbol : symbols) {
    if (symbol != kGone) ids->push_back(symbol);
  }
}

}  // namespace reprise::models
