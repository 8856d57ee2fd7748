// absl::StrCat for std::string_view: the packaged Abseil has a string_view of its own, which takes
// none from the standard library.
#ifndef REPRISE_STATE_STORE_INTERNAL_CAT_H_
#define REPRISE_STATE_STORE_INTERNAL_CAT_H_

#include <string>
#include <string_view>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace reprise::state_store {

inline absl::string_view ToAbsl(std::string_view text) { return {text.data(), text.size()}; }

template <typename... Pieces>
std::string Cat(const Pieces&... pieces) {
  const auto piece = []<typename T>(const T& value) -> decltype(auto) {
    if constexpr (std::is_convertible_v<const T&, std::string_view>) {
      return ToAbsl(value);
    } else {
      return (value);
    }
  };
  return absl::StrCat(piece(pieces)...);
}

}  // namespace reprise::state_store

#endif  // REPRISE_STATE_STORE_INTERNAL_CAT_H_
