// Small string tools on std::string_view. The system's absl::string_view is a type of its own,
// which absl's functions do not make out of a std::string_view.
#ifndef REPRISE_MODELS_TOKENIZER_TEXT_H_
#define REPRISE_MODELS_TOKENIZER_TEXT_H_

#include <string>
#include <string_view>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace reprise::models {

template <typename T>
decltype(auto) CatArgument(const T& value) {
  if constexpr (std::is_same_v<T, std::string_view>) {
    return absl::string_view(value.data(), value.size());
  } else {
    return (value);
  }
}

// absl::StrCat and absl::StrAppend for arguments of both kinds of view.
template <typename... T>
std::string Cat(const T&... values) {
  return absl::StrCat(CatArgument(values)...);
}
template <typename... T>
void CatTo(std::string* out, const T&... values) {
  absl::StrAppend(out, CatArgument(values)...);
}

// `from` must not be empty.
inline std::string ReplaceAll(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  size_t done = 0;
  for (size_t hit; (hit = text.find(from, done)) != std::string_view::npos;) {
    out.append(text, done, hit - done).append(to);
    done = hit + from.size();
  }
  return out.append(text, done);
}

}  // namespace reprise::models

#endif  // REPRISE_MODELS_TOKENIZER_TEXT_H_
