// Softmax, its logarithm, and what backward makes of their outputs.
//
// A pass is a type with
//   kInputs           x; or g, the gradient, and y, the output of the forward pass
//   kExponentiates    whether a row is summed up as terms exp(x - largest), else as summand(g, y)
//   row<S>(partial)   what the sums of a row say to each of its elements
//   result(x, row)    the output for one element
#pragma once

#include <cmath>
#include <limits>
#include <type_traits>

#include "formulas/compensated_sum.h"
#include "formulas/scalar.h"

namespace gradkern::formulas {

// Sums of a row or of a part of one. largest: of its entries, -infinity for none; sum: of exp(entry
// - largest), 0 where all entries are -infinity. Backward passes have a sum only.
struct SoftmaxPartial {
  double largest;
  CompensatedSum<double> sum;
};

// What turns a part's sum into one of exp(entry - largest) for a larger `largest`. (Milakov,
// Gimelshein, "Online normalizer calculation for softmax", 2018.) A part without an entry above
// -infinity has the sum 0, or NaN, which must stay.
GRADKERN_FORMULA double factor_against(double largest_of_part, double largest) {
  constexpr double kNothing = -std::numeric_limits<double>::infinity();
  return largest_of_part == kNothing ? 1 : exp(largest_of_part - largest);
}

GRADKERN_FORMULA void merge(SoftmaxPartial& into, SoftmaxPartial from) {
  const double largest = larger(into.largest, from.largest);
  into.sum.scale(factor_against(into.largest, largest));
  from.sum.scale(factor_against(from.largest, largest));
  into.sum.merge(from.sum);
  into.largest = largest;
}

// What is subtracted from entries whose largest this is. Of nothing but -infinity nothing can be
// subtracted; the terms are 0 then.
template <class V>
GRADKERN_FORMULA V subtrahend(V largest) {
  return select(largest == constant<V>(-std::numeric_limits<double>::infinity()), constant<V>(0),
                largest);
}

// exp(x - largest), within 2 units in the last place if kExact: x - largest is off by half a unit,
// of which the exponential makes (largest - x) halves. The exponential of that rounding error is 1
// + error. Without kExact, for results of 16 bits, it stays.
template <bool kExact, class V>
GRADKERN_FORMULA V softmax_term(V x, V largest) {
  const V difference = x - largest;
  const V term = exp(difference);
  if constexpr (kExact) {
    // Below, the term is 0, and the error may be infinity - infinity.
    constexpr double kLowest = std::is_same_v<scalar_of<V>, float> ? -104 : -746;
    const V error = sum_error(x, -largest, difference);
    return select(difference < constant<V>(kLowest), constant<V>(0),
                  multiply_add(term, error, term));
  } else {
    return term;
  }
}

// What every element of a row needs of the row: the largest entry, and a number in two parts.
template <class V>
struct SoftmaxRow {
  V largest, high, rest;
};

// A sum of float64 numbers as the sum of two of type S. A sum that is not finite has no rest.
template <class S>
GRADKERN_FORMULA SoftmaxRow<S> split_row(double largest, const CompensatedSum<double>& number) {
  const double rounded = number.sum + number.error;
  const double total = rounded == rounded ? rounded : number.sum;
  const S high = static_cast<S>(total);
  const S rest = static_cast<S>((number.sum - static_cast<double>(high)) + number.error);
  return {static_cast<S>(largest), high, rest == rest ? rest : S(0)};
}

struct Softmax {
  static constexpr int kInputs = 1;
  static constexpr bool kExponentiates = true;

  template <class S>
  static GRADKERN_FORMULA SoftmaxRow<S> row(const SoftmaxPartial& partial) {
    const double inverse = 1 / partial.sum.sum;
    const double lacking =
        fused_multiply_add(-inverse, partial.sum.sum, 1.0) - inverse * partial.sum.error;
    return split_row<S>(partial.largest, {inverse, lacking * inverse});
  }
  // From the element's term.
  template <class V>
  static GRADKERN_FORMULA V of_term(V term, const SoftmaxRow<V>& row) {
    return multiply_add(term, row.high, term * row.rest);
  }
  template <bool kExact, class V>
  static GRADKERN_FORMULA V result(const V* x, const SoftmaxRow<V>& row) {
    return of_term(softmax_term<kExact>(x[0], row.largest), row);
  }
};

// Within 3 units in the last place of max(|x|, |log(sum(exp(x)))|), half a unit for each rounding:
// neither x - largest nor the logarithm is more than twice that maximum.
struct LogSoftmax {
  static constexpr int kInputs = 1;
  static constexpr bool kExponentiates = true;

  template <class S>
  static GRADKERN_FORMULA SoftmaxRow<S> row(const SoftmaxPartial& partial) {
    // The largest entry's own term is 1: what the others add to it may be small.
    const double others = (partial.sum.sum - 1) + partial.sum.error;
    return split_row<S>(partial.largest, {::log1p(others), 0});
  }
  template <bool kExact, class V>
  static GRADKERN_FORMULA V result(const V* x, const SoftmaxRow<V>& row) {
    return (x[0] - row.largest) - row.high;
  }
};

// (g - sum(g * y)) * y: the sum in two parts, because g may be close to it.
struct SoftmaxBackward {
  static constexpr int kInputs = 2;
  static constexpr bool kExponentiates = false;

  template <class Wide>
  static GRADKERN_FORMULA Wide summand(const Wide* x) {
    return x[0] * x[1];
  }
  template <class S>
  static GRADKERN_FORMULA SoftmaxRow<S> row(const SoftmaxPartial& partial) {
    return split_row<S>(0, partial.sum);
  }
  template <bool kExact, class V>
  static GRADKERN_FORMULA V result(const V* x, const SoftmaxRow<V>& row) {
    return ((x[0] - row.high) - row.rest) * x[1];
  }
};

// g - exp(y) * sum(g)
struct LogSoftmaxBackward {
  static constexpr int kInputs = 2;
  static constexpr bool kExponentiates = false;

  template <class Wide>
  static GRADKERN_FORMULA Wide summand(const Wide* x) {
    return x[0];
  }
  template <class S>
  static GRADKERN_FORMULA SoftmaxRow<S> row(const SoftmaxPartial& partial) {
    return split_row<S>(0, partial.sum);
  }
  template <bool kExact, class V>
  static GRADKERN_FORMULA V result(const V* x, const SoftmaxRow<V>& row) {
    return multiply_add(-exp(x[1]), row.high, x[0]);
  }
};

}  // namespace gradkern::formulas
