// RReLU with random slopes: what a device computes (backend.h).
#pragma once

#include <cstdint>

#include "backend.h"

namespace gradkern {

enum class RreluPass : int32_t {
  kValue,     // x -> x above 0, else slope * x
  kBackward,  // g, x -> g above 0 of x, else slope * g
};
inline constexpr int kRreluPassCount = 2;

constexpr int inputs_of(RreluPass pass) { return pass == RreluPass::kValue ? 1 : 2; }

// Elementwise over contiguous memory, at least one element: the slope of element i is random number
// i of the seed (formulas/random_slope.h). The output may be one of the inputs.
struct RreluCall {
  RreluPass pass;
  DType dtype;
  int64_t numel;
  double lower, upper;
  const int64_t* seed;  // in the device's memory
  const void* in[2];
  void* out;
};

}  // namespace gradkern
