// Dual numbers: a value and its derivative in one direction, carried through a formula
// (forward-mode automatic differentiation; Griewank and Walther, "Evaluating Derivatives", 2nd
// edition, chapter 3).
//
// A derivative formula instantiated with Dual<V> gives the second derivative, so no activation
// writes its own.
#pragma once

#include <type_traits>

#include "formulas/scalar.h"

namespace gradkern::formulas {

template <class V>
struct Dual {
  using value_type = scalar_of<V>;

  V value, slope;

  GRADKERN_FORMULA explicit Dual(value_type constant) : value(constant), slope(value_type(0)) {}
  GRADKERN_FORMULA Dual(V value_, V slope_) : value(value_), slope(slope_) {}
};

template <class V>
GRADKERN_FORMULA Dual<V> operator+(const Dual<V>& a, const Dual<V>& b) {
  return {a.value + b.value, a.slope + b.slope};
}
template <class V>
GRADKERN_FORMULA Dual<V> operator-(const Dual<V>& a, const Dual<V>& b) {
  return {a.value - b.value, a.slope - b.slope};
}
template <class V>
GRADKERN_FORMULA Dual<V> operator-(const Dual<V>& a) {
  return {-a.value, -a.slope};
}
template <class V>
GRADKERN_FORMULA Dual<V> operator*(const Dual<V>& a, const Dual<V>& b) {
  return {a.value * b.value, a.slope * b.value + a.value * b.slope};
}
template <class V>
GRADKERN_FORMULA Dual<V> operator/(const Dual<V>& a, const Dual<V>& b) {
  const V quotient = a.value / b.value;
  return {quotient, (a.slope - quotient * b.slope) / b.value};
}

// Comparisons look at the value alone: a branch of a formula is chosen as it is without slopes.
template <class V>
GRADKERN_FORMULA auto operator==(const Dual<V>& a, const Dual<V>& b) {
  return a.value == b.value;
}
template <class V>
GRADKERN_FORMULA auto operator!=(const Dual<V>& a, const Dual<V>& b) {
  return a.value != b.value;
}
template <class V>
GRADKERN_FORMULA auto operator<(const Dual<V>& a, const Dual<V>& b) {
  return a.value < b.value;
}
template <class V>
GRADKERN_FORMULA auto operator>(const Dual<V>& a, const Dual<V>& b) {
  return a.value > b.value;
}

// For a scalar condition the general `select` serves.
template <class Condition, class V, class = std::enable_if_t<!std::is_same<Condition, bool>::value>>
GRADKERN_FORMULA Dual<V> select(const Condition& condition, const Dual<V>& if_true,
                                const Dual<V>& if_false) {
  return {select(condition, if_true.value, if_false.value),
          select(condition, if_true.slope, if_false.slope)};
}

template <class V>
GRADKERN_FORMULA Dual<V> multiply_add(const Dual<V>& a, const Dual<V>& b, const Dual<V>& c) {
  return a * b + c;
}
template <class V>
GRADKERN_FORMULA Dual<V> fused_multiply_add(const Dual<V>& a, const Dual<V>& b, const Dual<V>& c) {
  return a * b + c;
}
// An error of rounding, which has no slope.
template <class V>
GRADKERN_FORMULA Dual<V> product_error(const Dual<V>& a, const Dual<V>& b, const Dual<V>& product) {
  return {product_error(a.value, b.value, product.value), constant<V>(0)};
}
template <class V>
GRADKERN_FORMULA Dual<V> absolute(const Dual<V>& x) {
  return {absolute(x.value), select(x.value < constant<V>(0), -x.slope, x.slope)};
}
template <class V>
GRADKERN_FORMULA Dual<V> exp(const Dual<V>& x) {
  const V e = exp(x.value);
  return {e, e * x.slope};
}
template <class V>
GRADKERN_FORMULA SplitExp<Dual<V>> split_exp(const Dual<V>& x) {
  const SplitExp<V> e = split_exp(x.value);
  return {{e.value, e.value * x.slope}, {e.scale, constant<V>(0)}};
}
template <class V>
GRADKERN_FORMULA SplitExp<Dual<V>> split_gauss(const Dual<V>& a) {
  const SplitExp<V> e = split_gauss(a.value);
  return {{e.value, -a.value * e.value * a.slope}, {e.scale, constant<V>(0)}};
}
template <class V>
GRADKERN_FORMULA Dual<V> expm1(const Dual<V>& x) {
  return {expm1(x.value), exp(x.value) * x.slope};
}
template <class V>
GRADKERN_FORMULA Dual<V> tanh(const Dual<V>& x) {
  const V t = tanh(x.value);
  return {t, (constant<V>(1) - t) * (constant<V>(1) + t) * x.slope};
}

}  // namespace gradkern::formulas
