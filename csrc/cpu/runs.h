// Runs of elements that lie side by side.
#pragma once

#include <cstdint>

namespace gradkern::cpu {

// Element i of run r is r * stride + i, for i < size.
struct Runs {
  int64_t count, stride, size;

  // Of one run.
  static Runs one(int64_t size) { return {1, size, size}; }
};

}  // namespace gradkern::cpu
