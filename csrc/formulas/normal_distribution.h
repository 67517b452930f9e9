// The standard normal distribution, with a small relative error everywhere: near 0, and in the
// tail.
#pragma once

#include "formulas/polynomial.h"

namespace gradkern::formulas {

// Coefficients of polynomials, from the lowest power up, one set for each precision. They
// interpolate at Chebyshev points.
//
// (P(X <= x) - 1/2) / x as a polynomial in x^2, for |x| <= 1: relative error 7e-10 (float), 2e-21
// (double).
template <class Scalar>
struct NormalCenter;

template <>
struct NormalCenter<float> {
  static constexpr int kDegree = 5;
  GRADKERN_FORMULA static constexpr double coefficient(int i) {
    constexpr double c[kDegree + 1] = {0.3989422917366028,    -0.06649035960435867,
                                       0.009973328560590744,  -0.001186343957670033,
                                       0.0001135022976086475, -7.66053835832281e-06};
    return c[i];
  }
};

template <>
struct NormalCenter<double> {
  static constexpr int kDegree = 11;
  GRADKERN_FORMULA static constexpr double coefficient(int i) {
    constexpr double c[kDegree + 1] = {
        0.3989422804014327,      -0.06649038006690544,   0.009973557010035806,
        -0.001187328215480253,   0.00011543468761421087, -9.444656248413156e-06,
        6.659693114915888e-07,   -4.122657837266453e-08, 2.2733770173468317e-09,
        -1.1285002144059668e-10, 5.003033458919368e-12,  -1.6878231631896875e-13};
    return c[i];
  }
};

// Q(a) = P(X > a) = exp(-a^2/2) P(t) / (a + k) with t = (a - k) / (a + k), which maps [0, infinity)
// to [-1, 1): the transformation of Shepherd and Laframboise, "Chebyshev approximation of (1 + 2x)
// exp(x^2) erfc(x) in 0 <= x < infinity", Math. Comp. 36, 1981. Relative error 1.1e-8 (float),
// 5e-18 (double).
template <class Scalar>
struct NormalTailPolynomial;

template <>
struct NormalTailPolynomial<float> {
  static constexpr double k = 3.5;
  static constexpr int kDegree = 10;
  GRADKERN_FORMULA static constexpr double coefficient(int i) {
    constexpr double c[kDegree + 1] = {
        0.7444160580635071,     -0.5655618906021118,    0.3154250681400299,
        -0.11604904383420944,   0.017406059429049492,   0.006465233862400055,
        -0.0031789857894182205, -0.0004177686059847474, 0.00045269393012858927,
        3.463520260993391e-05,  -4.976688796887174e-05};
    return c[i];
  }
};

template <>
struct NormalTailPolynomial<double> {
  static constexpr double k = 4.5;
  static constexpr int kDegree = 24;
  GRADKERN_FORMULA static constexpr double coefficient(int i) {
    constexpr double c[kDegree + 1] = {
        0.7632305289702032,      -0.640257760252617,     0.4464525170556799,
        -0.25314179995097813,    0.11138259657011594,    -0.03387132617682208,
        0.004223613382703094,    0.0017488305625439568,  -0.000917746534262916,
        6.381198287780921e-06,   0.00011204293100505,    -1.593333284152829e-05,
        -1.4236879992029499e-05, 3.191026056797696e-06,  2.145447352549165e-06,
        -5.019667425872038e-07,  -3.836485327898605e-07, 6.4064587512706e-08,
        7.519050818948824e-08,   -4.776091114464616e-09, -1.4294002387572708e-08,
        -2.917012222676351e-10,  2.203114227191003e-09,  9.703395561462847e-11,
        -1.931756211855968e-10};
    return c[i];
  }
};

// P(X <= x) for |x| <= 1.
template <class V>
GRADKERN_FORMULA V normal_center(V x) {
  return multiply_add(x, polynomial<NormalCenter<scalar_of<V>>>(x * x), constant<V>(0.5));
}

// The upper tail for a >= 0: Q(a) = ratio * exp(exponent) * (1 + correction).
template <class V>
struct NormalTail {
  V ratio, exponent, correction;

  GRADKERN_FORMULA explicit NormalTail(V magnitude)
      : ratio(constant<V>(0)), exponent(constant<V>(0)), correction(constant<V>(0)) {
    using Polynomial = NormalTailPolynomial<scalar_of<V>>;
    // Beyond 60 the tail is 0; without the bound infinity would give NaN.
    const V bound = constant<V>(60);
    const V a = select(magnitude > bound, bound, magnitude);
    // A rounding of a^2 = 170 would be an error of 1e-5 in the exponential: it is kept.
    const V square = a * a;
    const V half = constant<V>(0.5);
    exponent = -half * square;
    correction = -half * product_error(a, a, square);
    const V one = constant<V>(1), k = constant<V>(Polynomial::k);
    const V sum = a + k;
    const V inverse = one / sum;
    const V t = (a - k) * inverse;
    ratio = polynomial<Polynomial>(t) * inverse;
    // What the inverse lacks, of the rounding of the sum and of its own.
    const V unity = inverse * sum;
    correction = correction +
                 (((one - unity) - product_error(inverse, sum, unity)) - (a - (sum - k)) * inverse);
  }
};

}  // namespace gradkern::formulas
