// The standard normal distribution, with a small relative error everywhere: near 0, and in the
// tail.
#pragma once

#include "formulas/polynomial.h"

namespace gradkern::formulas {

// Q(a) = P(X > a) = exp(-a^2/2) P(u) / (a + k) with u = a / (a + k), which maps [0, infinity) to
// [0, 1), after Shepherd and Laframboise, "Chebyshev approximation of (1 + 2x) exp(x^2) erfc(x) in
// 0 <= x < infinity", Math. Comp. 36, 1981. Coefficients from the lowest power up. Relative error
// 5e-9 below 3.3 and 4.3e-7 beyond (float), 8e-18 (double). Beyond the bound Q(a) is 0.
template <class Scalar>
struct NormalTailPolynomial;

template <>
struct NormalTailPolynomial<float> {
  static constexpr double k = 3, kBound = 15.5;
  static constexpr int kDegree = 8;
  GRADKERN_FORMULA static constexpr double coefficient(int i) {
    constexpr double c[kDegree + 1] = {1.5,
                                       -2.090479612350464,
                                       1.068992257118225,
                                       0.20792676508426666,
                                       -0.2669791877269745,
                                       -0.086422860622406,
                                       -0.04411013424396515,
                                       0.18724337220191956,
                                       -0.0773426741361618};
    return c[i];
  }
};

template <>
struct NormalTailPolynomial<double> {
  static constexpr double k = 3.5, kBound = 40;
  static constexpr int kDegree = 24;
  GRADKERN_FORMULA static constexpr double coefficient(int i) {
    constexpr double c[kDegree + 1] = {1.75,
                                       -3.1370429349175484,
                                       2.6946641301644796,
                                       -0.7103041222952029,
                                       -0.48120113675834214,
                                       0.18809954767132525,
                                       0.16841191854043577,
                                       -0.014219762242881141,
                                       -0.06135349016524473,
                                       -0.02101276985812602,
                                       0.0048204978661115575,
                                       0.04350885367260752,
                                       -0.10255803195258596,
                                       0.31554486021898964,
                                       -0.7601645854335453,
                                       1.437418767455725,
                                       -2.1781542492523234,
                                       2.5925123962375136,
                                       -2.3717665725846335,
                                       1.612125113913753,
                                       -0.7601274474623269,
                                       0.21228831077661045,
                                       -0.01620784504325207,
                                       -0.00822020390135926,
                                       0.0018810357549667418};
    return c[i];
  }
};

// The upper tail for a >= 0: Q(a) = ratio * gauss.
template <class V>
struct NormalTail {
  V ratio, weighted_ratio;  // the latter: a * ratio
  SplitExp<V> gauss;        // exp(-a^2/2)

  GRADKERN_FORMULA explicit NormalTail(V a)
      : ratio(constant<V>(0)), weighted_ratio(constant<V>(0)), gauss(split_gauss(a)) {
    using Polynomial = NormalTailPolynomial<scalar_of<V>>;
    const V inverse = constant<V>(1) / (a + constant<V>(Polynomial::k));
    const V u = a * inverse;
    const V p = polynomial<Polynomial>(u);
    ratio = p * inverse;
    // Errors of u go against those of P(u).
    weighted_ratio = p * u;
  }
};

}  // namespace gradkern::formulas
