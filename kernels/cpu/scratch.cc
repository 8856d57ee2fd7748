#include "kernels/cpu/scratch.h"

#include <cstdlib>
#include <memory>
#include <new>

namespace reprise::kernels::cpu {
namespace {

struct Free {
  void operator()(float* memory) const { std::free(memory); }
};

struct Scratch {
  std::unique_ptr<float, Free> memory;
  size_t floats = 0;
};

}  // namespace

float* ThreadScratch(size_t floats) {
  static thread_local Scratch scratch;
  if (scratch.floats < floats) {
    constexpr size_t kStep = 4096;
    const size_t rounded = (floats + kStep - 1) / kStep * kStep;
    scratch.memory.reset();
    scratch.floats = 0;
    void* memory = std::aligned_alloc(128, rounded * sizeof(float));
    if (memory == nullptr) throw std::bad_alloc();
    scratch.memory.reset(static_cast<float*>(memory));
    scratch.floats = rounded;
  }
  return scratch.memory.get();
}

}  // namespace reprise::kernels::cpu
