// The vocabulary in which formulas are written, for scalars.
//
// A formula calls these names unqualified. For `float` and `double` it finds the functions below;
// for a SIMD value it finds, by argument-dependent lookup, the overloads beside that type. A
// formula therefore never branches on a value: it calls `select`.
#pragma once

#include <cmath>

#include "formulas/qualifiers.h"

namespace gradkern::formulas {

template <class T>
GRADKERN_FORMULA T select(bool condition, T if_true, T if_false) {
  return condition ? if_true : if_false;
}

// Not std::fmax: a NaN operand must not be replaced by the other one silently, and the order of the
// comparison is part of the result (`b` wins ties and NaN comparisons), on every device alike.
template <class T>
GRADKERN_FORMULA T larger(T a, T b) {
  return a > b ? a : b;
}

template <class T>
GRADKERN_FORMULA T smaller(T a, T b) {
  return a < b ? a : b;
}

// How many conditions hold: one lane's is 0 or 1.
GRADKERN_FORMULA int count(bool condition) { return condition ? 1 : 0; }

// A running extreme, over all lanes of a pack together: which lane an extreme came from is nobody's
// concern. A scalar is its own.
template <class T>
struct Running {
  using type = T;
};
template <class T>
using running = typename Running<T>::type;

template <class T>
GRADKERN_FORMULA T include_larger(T x, T so_far) {
  return larger(x, so_far);
}
// Includes x unless the condition holds.
template <class T>
GRADKERN_FORMULA T include_smaller_unless(bool condition, T x, T so_far) {
  return condition ? so_far : smaller(x, so_far);
}

GRADKERN_FORMULA float absolute(float x) { return ::fabsf(x); }
GRADKERN_FORMULA double absolute(double x) { return ::fabs(x); }

// A call: inlined into an unrolled loop, thirty copies of pow would make the largest kernel by far.
GRADKERN_FORMULA_CALL double power(double base, double exponent) { return ::pow(base, exponent); }

// a * b + c for a product that is exact in float64 (a float32 value times itself): fusing or not
// fusing the addition then gives the same bits, so a backend may do either.
GRADKERN_FORMULA double add_exact_product(double a, double b, double c) { return a * b + c; }

GRADKERN_FORMULA bool is_nan(double x) { return x != x; }

}  // namespace gradkern::formulas
