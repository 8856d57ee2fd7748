// Finding stop strings in text that arrives in pieces.
#ifndef REPRISE_SERVICE_STOP_MATCHER_H_
#define REPRISE_SERVICE_STOP_MATCHER_H_

#include <string>
#include <string_view>
#include <vector>

namespace reprise::service {

// Holds back text that may be the beginning of a stop string, and only that. What comes out does
// not depend on how the text was cut into pieces: the stop string that is complete first wins, the
// longest if several end at one byte. Runs one Knuth-Morris-Pratt automaton per stop string, so a
// byte costs the same whatever came before. Not thread-safe.
class StopMatcher {
 public:
  explicit StopMatcher(std::vector<std::string> stops);  // none of them empty

  // Returns the text that is certain now. Once matched, everything is swallowed.
  std::string Feed(std::string_view text);
  // What is still held back; the end of a text without a match.
  std::string Flush();

  bool matched() const { return matched_ >= 0; }
  // The stop string that matched; only after a match.
  const std::string& stop() const { return patterns_[matched_].text; }

 private:
  struct Pattern {
    std::string text;
    std::vector<size_t> fallback;  // longest proper border of text[0, i]
    size_t length = 0;             // bytes of text that the input ends with
  };

  std::vector<Pattern> patterns_;
  std::string held_;
  int matched_ = -1;
};

}  // namespace reprise::service

#endif  // REPRISE_SERVICE_STOP_MATCHER_H_
