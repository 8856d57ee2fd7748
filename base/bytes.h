// Bytes that whoever asks for them is about to fill.
#ifndef REPRISE_BASE_BYTES_H_
#define REPRISE_BASE_BYTES_H_

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace reprise {

// std::allocator, except that elements made without a value have none: a state of megabytes is not
// zeroed before it is copied.
template <typename T>
struct UninitializedAllocator : std::allocator<T> {
  template <typename U>
  struct rebind {
    using other = UninitializedAllocator<U>;
  };
  template <typename U>
  void construct(U* place) {
    ::new (static_cast<void*>(place)) U;
  }
  template <typename U, typename... Args>
  void construct(U* place, Args&&... args) {
    ::new (static_cast<void*>(place)) U(std::forward<Args>(args)...);
  }
};

// Bytes(n) and resize(n) leave new bytes undefined; Bytes(n, 0) does not.
using Bytes = std::vector<uint8_t, UninitializedAllocator<uint8_t>>;

}  // namespace reprise

#endif  // REPRISE_BASE_BYTES_H_
