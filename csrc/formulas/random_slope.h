// The random slopes of RReLU (Xu, Wang, Chen, Li, "Empirical evaluation of rectified activations in
// convolutional network", 2015).
#pragma once

#include "formulas/activations.h"
#include "formulas/philox.h"

namespace gradkern::formulas {

// Elements whose slopes come from one call of the generator: element i has word i % 4 of counter
// i / 4, whatever its type.
inline constexpr int kSlopesAtOnce = 4;

// Uniform between two bounds, in steps of a 2^24th of their distance.
template <class V>
struct RandomSlope {
  V lower, step;

  GRADKERN_FORMULA RandomSlope(double lower_bound, double upper_bound)
      : lower(static_cast<V>(lower_bound)),
        step(static_cast<V>((upper_bound - lower_bound) * 0x1p-24)) {}

  GRADKERN_FORMULA V of(uint32_t word) const {
    return lower + step * static_cast<V>(static_cast<int32_t>(word >> 8));
  }
};

template <class V>
GRADKERN_FORMULA Activated<V> rectified(V x, V slope) {
  return LeakyRelu::at(x, Parameters<V>{{slope, constant<V>(0)}});
}

}  // namespace gradkern::formulas
