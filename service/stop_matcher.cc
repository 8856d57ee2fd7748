#include "service/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace reprise::service {

StopMatcher::StopMatcher(std::vector<std::string> stops) {
  for (std::string& text : stops) {
    std::vector<size_t> fallback(text.size(), 0);
    for (size_t i = 1, k = 0; i < text.size(); ++i) {
      while (k > 0 && text[i] != text[k]) k = fallback[k - 1];
      if (text[i] == text[k]) ++k;
      fallback[i] = k;
    }
    patterns_.push_back({std::move(text), std::move(fallback), 0});
  }
}

std::string StopMatcher::Feed(std::string_view text) {
  if (matched()) return "";
  for (char byte : text) {
    held_.push_back(byte);
    for (size_t p = 0; p < patterns_.size(); ++p) {
      Pattern& pattern = patterns_[p];
      size_t k = pattern.length;
      while (k > 0 && pattern.text[k] != byte) k = pattern.fallback[k - 1];
      if (pattern.text[k] == byte) ++k;
      pattern.length = k;
      if (k == pattern.text.size() && (!matched() || k > patterns_[matched_].text.size())) {
        matched_ = static_cast<int>(p);
      }
    }
    if (matched()) {
      // Everything before the longest stop string that ends here is certain.
      std::string certain = held_.substr(0, held_.size() - stop().size());
      held_.clear();
      return certain;
    }
  }
  size_t keep = 0;
  for (const Pattern& pattern : patterns_) keep = std::max(keep, pattern.length);
  std::string certain = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return certain;
}

std::string StopMatcher::Flush() { return std::exchange(held_, {}); }

}  // namespace reprise::service
