// Polynomials whose coefficients depend on the precision.
//
// A polynomial is a type with kDegree and a constexpr function coefficient(i), the lowest power
// first.
#pragma once

#include "formulas/scalar.h"

namespace gradkern::formulas {

// Horner's scheme.
template <class Polynomial, int kFrom = 0, class V>
GRADKERN_FORMULA V polynomial(V x) {
  const V coefficient = constant<V>(Polynomial::coefficient(kFrom));
  if constexpr (kFrom == Polynomial::kDegree) {
    return coefficient;
  } else {
    return multiply_add(polynomial<Polynomial, kFrom + 1>(x), x, coefficient);
  }
}

}  // namespace gradkern::formulas
