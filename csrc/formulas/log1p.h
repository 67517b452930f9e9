// log(1 + e) where e = exp(-|x|): all that softplus and its kin ask of a logarithm.
#pragma once

#include "formulas/polynomial.h"

namespace gradkern::formulas {

// (artanh(s) - s) / s^3 as a polynomial in s^2, for |s| <= 1/3, through Chebyshev points: relative
// error of the logarithm 4e-10 (float), 5e-18 (double).
template <class Scalar>
struct ArtanhPolynomial;

template <>
struct ArtanhPolynomial<float> {
  static constexpr int kDegree = 4;
  GRADKERN_FORMULA static constexpr double coefficient(int i) {
    constexpr double c[kDegree + 1] = {0.3333333432674408, 0.19999852776527405, 0.142961785197258,
                                       0.1085328757762909, 0.11612164974212646};
    return c[i];
  }
};

template <>
struct ArtanhPolynomial<double> {
  static constexpr int kDegree = 9;
  GRADKERN_FORMULA static constexpr double coefficient(int i) {
    constexpr double c[kDegree + 1] = {
        0.3333333333333333,  0.20000000000007292, 0.1428571428355438,  0.11111111358713932,
        0.09090894718066429, 0.07692785032479312, 0.06657072104827468, 0.06000536404795356,
        0.04400369243072337, 0.08082022805971766};
    return c[i];
  }
};

// log(1 + e) = 2 artanh(e / (2 + e)) for 0 <= e <= 1: no exponent to take apart, as a logarithm of
// any number would need.
template <class V>
GRADKERN_FORMULA V log1p_of_unit(V e) {
  const V s = e / (constant<V>(2) + e);
  const V square = s * s;
  const V twice = s + s;
  return multiply_add(twice * square, polynomial<ArtanhPolynomial<scalar_of<V>>>(square), twice);
}

}  // namespace gradkern::formulas
