// Sums in float64 of which the rounding errors are kept (Knuth, "The Art of Computer Programming",
// vol. 2, 4.2.2, theorem B; Ogita, Rump, Oishi, "Accurate sum and dot product", 2005).
//
// Aggregates without constructors, so that they can lie in a GPU's shared memory.
#pragma once

#include "formulas/scalar.h"

namespace gradkern::formulas {

// What the rounded a + b lacks of the exact one.
template <class V>
GRADKERN_FORMULA V sum_error(V a, V b, V sum) {
  const V second = sum - a;
  return (a - (sum - second)) + (b - second);
}

template <class Wide>
struct CompensatedSum {
  Wide sum, error;

  static GRADKERN_FORMULA CompensatedSum zero() { return {Wide(0), Wide(0)}; }

  GRADKERN_FORMULA void add(Wide x) {
    const Wide rounded = sum + x;
    error = error + sum_error(sum, x, rounded);
    sum = rounded;
  }
  // Gives the same bits in either order.
  GRADKERN_FORMULA void merge(const CompensatedSum& other) {
    const Wide rounded = sum + other.sum;
    error = (error + other.error) + sum_error(sum, other.sum, rounded);
    sum = rounded;
  }
  // Off by half a unit in the last place.
  GRADKERN_FORMULA void scale(Wide factor) {
    sum = sum * factor;
    error = error * factor;
  }
  GRADKERN_FORMULA CompensatedSum compensated() const { return *this; }
};

// A sum of float32 values: float64 has 29 bits to spare for its rounding errors.
template <class Wide>
struct PlainSum {
  Wide sum;

  static GRADKERN_FORMULA PlainSum zero() { return {Wide(0)}; }

  GRADKERN_FORMULA void add(Wide x) { sum = sum + x; }
  GRADKERN_FORMULA void merge(const PlainSum& other) { sum = sum + other.sum; }
  GRADKERN_FORMULA void scale(Wide factor) { sum = sum * factor; }
  GRADKERN_FORMULA CompensatedSum<Wide> compensated() const { return {sum, Wide(0)}; }
};

// The sum of values of type Scalar.
template <class Scalar, class Wide>
struct SumOf {
  using type = PlainSum<Wide>;
};
template <class Wide>
struct SumOf<double, Wide> {
  using type = CompensatedSum<Wide>;
};

}  // namespace gradkern::formulas
