#include "models/tokenizer/sentencepiece_segmenter.h"

#include <algorithm>
#include <cmath>
#include <queue>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "models/tokenizer/utf8.h"

namespace reprise::models {
namespace {

using Type = SentencePieceModel::Type;

bool IsTextPiece(Type type) {
  return type == Type::kNormal || type == Type::kUserDefined || type == Type::kUnused;
}

size_t CharacterLength(std::string_view text, size_t offset) {
  return std::min(Utf8Length(text[offset]), text.size() - offset);
}

// Merges the neighbours whose joint piece scores best, the leftmost first among equals.
class BpeSegmenter : public SentencePieceSegmenter {
 public:
  BpeSegmenter(const SentencePieceModel& model, const ByteTrie& user_defined)
      : model_(model), user_defined_(user_defined) {
    for (size_t i = 0; i < model.pieces.size(); ++i) {
      if (IsTextPiece(model.pieces[i].type)) {
        ids_.emplace(model.pieces[i].text, static_cast<int32_t>(i));
      }
    }
  }

  std::vector<PieceSpan> Segment(std::string_view text) const override;

 private:
  static constexpr int64_t kNone = -1;
  struct Symbol {
    int64_t prev, next;
    std::string_view text;  // empty once merged into its left neighbour
    bool frozen;            // user-defined: never merged
  };
  struct Merge {
    float score;
    int64_t left, right;
    size_t size;  // of the merged text; stale if the symbols have changed since
    bool operator<(const Merge& other) const {
      return score != other.score ? score < other.score : left > other.left;
    }
  };
  using Halves =
      absl::flat_hash_map<std::string_view, std::pair<std::string_view, std::string_view>>;

  void Resegment(std::string_view text, const Halves& halves, std::vector<PieceSpan>* out) const;

  const SentencePieceModel& model_;
  const ByteTrie& user_defined_;
  absl::flat_hash_map<std::string_view, int32_t> ids_;
};

std::vector<PieceSpan> BpeSegmenter::Segment(std::string_view text) const {
  std::vector<Symbol> symbols;
  for (size_t i = 0; i < text.size();) {
    size_t length = user_defined_.empty() ? 0 : user_defined_.Longest(text.substr(i)).length;
    const bool frozen = length > 0;
    if (!frozen) length = CharacterLength(text, i);
    const int64_t index = static_cast<int64_t>(symbols.size());
    symbols.push_back({index - 1, index + 1, text.substr(i, length), frozen});
    i += length;
  }
  if (symbols.empty()) return {};
  symbols.back().next = kNone;

  std::priority_queue<Merge> agenda;
  Halves halves;  // what an unused piece was merged from
  const auto consider = [&](int64_t left, int64_t right) {
    if (left == kNone || right == kNone || symbols[left].frozen || symbols[right].frozen) return;
    const std::string_view merged(symbols[left].text.data(),
                                  symbols[left].text.size() + symbols[right].text.size());
    const auto it = ids_.find(merged);
    if (it == ids_.end()) return;
    const SentencePieceModel::Piece& piece = model_.pieces[it->second];
    agenda.push({piece.score, left, right, merged.size()});
    if (piece.type == Type::kUnused) halves[merged] = {symbols[left].text, symbols[right].text};
  };
  for (size_t i = 1; i < symbols.size(); ++i) {
    consider(static_cast<int64_t>(i) - 1, static_cast<int64_t>(i));
  }
  while (!agenda.empty()) {
    const Merge top = agenda.top();
    agenda.pop();
    Symbol& left = symbols[top.left];
    Symbol& right = symbols[top.right];
    if (left.text.empty() || right.text.empty() ||
        left.text.size() + right.text.size() != top.size) {
      continue;
    }
    left.text = std::string_view(left.text.data(), top.size);
    left.next = right.next;
    if (right.next != kNone) symbols[right.next].prev = top.left;
    right.text = {};
    consider(left.prev, top.left);
    consider(top.left, left.next);
  }
  std::vector<PieceSpan> out;
  for (int64_t i = 0; i != kNone; i = symbols[i].next) Resegment(symbols[i].text, halves, &out);
  return out;
}

void BpeSegmenter::Resegment(std::string_view text, const Halves& halves,
                             std::vector<PieceSpan>* out) const {
  std::vector<std::string_view> stack = {text};
  while (!stack.empty()) {
    const std::string_view top = stack.back();
    stack.pop_back();
    const auto id = ids_.find(top);
    const int32_t piece = id == ids_.end() ? model_.unk_id : id->second;
    const auto it = halves.find(top);
    if (model_.pieces[piece].type == Type::kUnused && it != halves.end()) {
      stack.push_back(it->second.second);
      stack.push_back(it->second.first);
    } else {
      out->push_back({top, piece});
    }
  }
}

// The most probable segmentation (Viterbi). The arithmetic follows the reference (0.2.3) type by
// type: ties and rounding decide between segmentations.
class UnigramSegmenter : public SentencePieceSegmenter {
 public:
  explicit UnigramSegmenter(const SentencePieceModel& model) : model_(model) {
    float min_score = 0;
    bool any = false;
    std::vector<std::pair<std::string_view, int32_t>> keys;
    for (size_t i = 0; i < model.pieces.size(); ++i) {
      const SentencePieceModel::Piece& piece = model.pieces[i];
      if (piece.type == Type::kNormal) {
        min_score = any ? std::min(min_score, piece.score) : piece.score;
        any = true;
      }
      if (IsTextPiece(piece.type)) keys.emplace_back(piece.text, static_cast<int32_t>(i));
    }
    unk_score_ = min_score - 10.0f;
    trie_ = ByteTrie(std::move(keys));
  }

  std::vector<PieceSpan> Segment(std::string_view text) const override;

 private:
  static constexpr float kScoreResetThreshold = 100000.0f;

  float Score(int32_t id, size_t length) const {
    const SentencePieceModel::Piece& piece = model_.pieces[id];
    if (piece.type != Type::kUserDefined) return piece.score;
    // Above every log probability: a user-defined piece beats all other paths.
    return static_cast<float>(0.1 * (static_cast<double>(length) - 1));
  }

  const SentencePieceModel& model_;
  ByteTrie trie_;
  float unk_score_ = 0;
};

std::vector<PieceSpan> UnigramSegmenter::Segment(std::string_view text) const {
  struct Best {
    float score = 0;
    int32_t id = -1;
    int64_t start = -1;  // -1: no path ends here yet
  };
  std::vector<Best> best(text.size() + 1);
  size_t frontier = 0;  // no path ends behind it
  const auto offer = [&](size_t end, size_t start, float score, int32_t id) {
    frontier = std::max(frontier, end);
    Best& slot = best[end];
    if (slot.start != -1 && !(score > slot.score)) return;
    slot = {score, id, static_cast<int64_t>(start)};
  };
  for (size_t start = 0; start < text.size();) {
    // In a long text the sums would grow until a float cannot tell the paths apart.
    if (const float sum = best[start].score; std::fabs(sum) > kScoreResetThreshold) {
      for (size_t i = start; i <= frontier; ++i) {
        if (i == start || best[i].start != -1) best[i].score -= sum;
      }
    }
    const float before = best[start].score;
    const size_t character = CharacterLength(text, start);
    bool single = false;
    uint32_t node = trie_.Start(static_cast<uint8_t>(text[start]));
    for (size_t end = start + 1; node != ByteTrie::kNoNode; ++end) {
      const int32_t id = trie_.ValueAt(node);
      if (id != ByteTrie::kNoValue && model_.pieces[id].type != Type::kUnused) {
        const size_t length = end - start;
        offer(end, start, Score(id, length) + before, id);
        if (length == character) single = true;
      }
      if (end == text.size()) break;
      node = trie_.Next(node, static_cast<uint8_t>(text[end]));
    }
    if (!single) offer(start + character, start, unk_score_ + before, model_.unk_id);
    start += character;
  }
  std::vector<PieceSpan> out;
  for (int64_t end = static_cast<int64_t>(text.size()); end > 0; end = best[end].start) {
    const Best& slot = best[end];
    out.push_back({text.substr(slot.start, end - slot.start), slot.id});
  }
  std::reverse(out.begin(), out.end());
  return out;
}

}  // namespace

std::unique_ptr<SentencePieceSegmenter> MakeBpeSegmenter(const SentencePieceModel& model,
                                                         const ByteTrie& user_defined) {
  return std::make_unique<BpeSegmenter>(model, user_defined);
}

std::unique_ptr<SentencePieceSegmenter> MakeUnigramSegmenter(const SentencePieceModel& model) {
  return std::make_unique<UnigramSegmenter>(model);
}

}  // namespace reprise::models
