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

// The scalar type behind a value (a SIMD value names its own as `value_type`).
template <class T>
struct ScalarOf {
  using type = typename T::value_type;
};
template <>
struct ScalarOf<float> {
  using type = float;
};
template <>
struct ScalarOf<double> {
  using type = double;
};
template <class T>
using scalar_of = typename ScalarOf<T>::type;

// A number as a value.
template <class T>
GRADKERN_FORMULA T constant(double number) {
  return T(static_cast<scalar_of<T>>(number));
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

// Within 2 units in the last place, over the whole range of arguments, subnormal results included.
GRADKERN_FORMULA float exp(float x) { return ::expf(x); }
GRADKERN_FORMULA double exp(double x) { return ::exp(x); }
GRADKERN_FORMULA float expm1(float x) { return ::expm1f(x); }
GRADKERN_FORMULA double expm1(double x) { return ::expm1(x); }
GRADKERN_FORMULA float log1p(float x) { return ::log1pf(x); }
GRADKERN_FORMULA double log1p(double x) { return ::log1p(x); }
GRADKERN_FORMULA float tanh(float x) { return ::tanhf(x); }
GRADKERN_FORMULA double tanh(double x) { return ::tanh(x); }

// a * b + c, with one rounding where the machine has the instruction, else with two.
GRADKERN_FORMULA float multiply_add(float a, float b, float c) { return ::fmaf(a, b, c); }
GRADKERN_FORMULA double multiply_add(double a, double b, double c) { return ::fma(a, b, c); }

// The same with one rounding everywhere (nearly: half a unit more), whatever it costs.
GRADKERN_FORMULA float fused_multiply_add(float a, float b, float c) { return ::fmaf(a, b, c); }
GRADKERN_FORMULA double fused_multiply_add(double a, double b, double c) { return ::fma(a, b, c); }

// What the rounded product a * b lacks of the exact one.
template <class T>
GRADKERN_FORMULA T product_error(T a, T b, T product) {
  return multiply_add(a, b, -product);
}

// exp(x) as value * scale, so that a product with it underflows only where the product does:
// silu(-103) = -103 exp(-103) is 50 times the subnormal number that exp(-103) would be rounded to.
// The scale is 1 where the exponential is a normal number.
template <class V>
struct SplitExp {
  V value, scale;

  // factor * exp(x)
  GRADKERN_FORMULA V times(V factor) const { return factor * value * scale; }
};

// For x from -infinity to 80.
template <class T>
GRADKERN_FORMULA SplitExp<T> split_exp(T x) {
  // x + shift is exact: it has no smaller unit than x.
  constexpr bool kIsFloat = std::is_same_v<T, float>;
  const bool deep = x < (kIsFloat ? -80 : -700);
  return {exp(x + select(deep, T(kIsFloat ? 40 : 100), T(0))),
          select(deep, T(kIsFloat ? 4.248354255291589e-18 : 3.720075976020836e-44),
                 T(1))};  // exp(-40), exp(-100)
}
// exp(-a^2/2). A rounding of a^2 would be an error of 4 units at a = 4, of 70 at 15: it is kept.
template <class T>
GRADKERN_FORMULA SplitExp<T> split_gauss(T a) {
  const T square = a * a;
  SplitExp<T> e = split_exp(T(-0.5) * square);
  e.value = multiply_add(e.value, T(-0.5) * product_error(a, a, square), e.value);
  return e;
}

GRADKERN_FORMULA bool is_nan(double x) { return x != x; }

}  // namespace gradkern::formulas
