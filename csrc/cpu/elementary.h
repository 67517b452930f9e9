// Elementary functions of packs, within 2 units in the last place.
//
// Compiled once for each instruction set, like pack.h. expm1, log1p and tanh are xsimd's (at
// most 2.0, 0.8 and 1.3 ulp, measured). Its exp is not used: it gives 0 below -88.4, where the
// results are subnormal, and silu(-89) = -2e-37 is not.
#pragma once

#include <cstdint>

#include "cpu/pack.h"

namespace gradkern::cpu::GRADKERN_ISA {

template <class T>
struct ExpConstants;

// q in e^r = 1 + r + r^2 q(r) for |r| <= ln(2)/2: relative error of e^r 1.0e-8 (float), 1.7e-17
// (double). Multiples of the first part of ln 2 are exact (Cody and Waite, "Software Manual for the
// Elementary Functions", 1980).
template <>
struct ExpConstants<float> {
  static constexpr float kLowest = -104, kHighest = 89, kLowestSplit = -0x1.5d58ap7f;
  static constexpr float kLn2High = 0x1.62e4p-1f, kLn2Low = 0x1.7f7d1cp-20f;
  static constexpr float kRound = 0x1.8p23f;
  static constexpr int kMantissa = 23, kBias = 127;
  static constexpr float kPolynomial[] = {0.5f, 0.16666576266288757f, 0.04166655242443085f,
                                          0.008363292552530766f, 0.0013926326064392924f};
};
template <>
struct ExpConstants<double> {
  static constexpr double kLowest = -746, kHighest = 710, kLowestSplit = -0x1.6232bdd7abcd2p10;
  static constexpr double kLn2High = 0x1.62e42fefa38p-1, kLn2Low = 0x1.ef35793c7673p-45;
  static constexpr double kRound = 0x1.8p52;
  static constexpr int kMantissa = 52, kBias = 1023;
  static constexpr double kPolynomial[] = {
      0.5000000000000001,    0.16666666666666669,    0.04166666666662348,    0.008333333333330011,
      0.0013888888917538296, 0.00019841269863303223, 2.4801520792572694e-05, 2.75572680728901e-06,
      2.762032742826824e-07, 2.5100569275813683e-08};
};

// 2^n for an integer n with a normal result: the bits of n + bias + 1.5 * 2^mantissa end in n +
// bias.
template <class T>
inline xsimd::batch<T> power_of_two(xsimd::batch<T> n) {
  using Constants = ExpConstants<T>;
  using Integer = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  const xsimd::batch<T> shifted = n + xsimd::batch<T>(Constants::kRound + Constants::kBias);
  return xsimd::bitwise_cast<T>(xsimd::bitwise_cast<Integer>(shifted) << Constants::kMantissa);
}

// p * 2^n for a normal 2^n. (2^-bias is not, and may be taken for 0.)
template <class T>
inline xsimd::batch<T> times_normal_power_of_two(xsimd::batch<T> p, xsimd::batch<T> n) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    return _mm512_scalef_ps(p, n);
  } else {
    return _mm512_scalef_pd(p, n);
  }
#else
  return p * power_of_two(n);
#endif
}

// p * 2^n, rounded once, also where it is subnormal or infinite.
template <class T>
inline xsimd::batch<T> times_power_of_two(xsimd::batch<T> p, xsimd::batch<T> n) {
#if defined(__AVX512F__)
  return times_normal_power_of_two(p, n);  // the instruction takes any n
#else
  const xsimd::batch<T> round(ExpConstants<T>::kRound);
  const xsimd::batch<T> half = (n * xsimd::batch<T>(T(0.5)) + round) - round;
  return times_normal_power_of_two(times_normal_power_of_two(p, half), n - half);
#endif
}

// e^r for |r| <= ln(2)/2.
template <class T>
inline xsimd::batch<T> exp_of_reduced(xsimd::batch<T> r) {
  using Batch = xsimd::batch<T>;
  using Constants = ExpConstants<T>;
  constexpr int kDegree = static_cast<int>(std::size(Constants::kPolynomial)) - 1;
  Batch q(Constants::kPolynomial[kDegree]);
  for (int i = kDegree - 1; i >= 0; i--) q = xsimd::fma(q, r, Batch(Constants::kPolynomial[i]));
  return xsimd::fma(q, r * r, r) + Batch(T(1));
}

// The n for which 2^n is nearest to e^x.
template <class T>
inline xsimd::batch<T> nearest_power_of_two(xsimd::batch<T> x) {
  const xsimd::batch<T> round(ExpConstants<T>::kRound);
  return xsimd::fma(x, xsimd::batch<T>(T(1.4426950408889634074)), round) - round;
}

// x - n ln(2)
template <class T>
inline xsimd::batch<T> reduced_by(xsimd::batch<T> n, xsimd::batch<T> x) {
  using Constants = ExpConstants<T>;
  const auto r = xsimd::fnma(n, xsimd::batch<T>(Constants::kLn2High), x);
  return xsimd::fnma(n, xsimd::batch<T>(Constants::kLn2Low), r);
}

template <class T>
inline xsimd::batch<T> exp_of_batch(xsimd::batch<T> x) {
  using Batch = xsimd::batch<T>;
  using Constants = ExpConstants<T>;
  // In this order of the operands a NaN comes through minimum and maximum.
  const Batch bounded =
      xsimd::max(Batch(Constants::kLowest), xsimd::min(Batch(Constants::kHighest), x));
  const Batch n = nearest_power_of_two<T>(bounded);
  return times_power_of_two(exp_of_reduced<T>(reduced_by<T>(n, bounded)), n);
}

// value * scale, as formulas::SplitExp. At kLowestSplit = (2 - 2 * kBias) ln(2) and below, the
// scale is as good as 0: 2^-bias.
template <class T>
struct SplitExpOfBatch {
  xsimd::batch<T> value, scale;

  // p * 2^n
  SplitExpOfBatch(xsimd::batch<T> p, xsimd::batch<T> n) {
    const auto normal = xsimd::max(xsimd::batch<T>(T(2 - ExpConstants<T>::kBias)), n);
    value = times_normal_power_of_two(p, normal);
    scale = times_normal_power_of_two(xsimd::batch<T>(T(1)), n - normal);
  }
};

// Of x + rest, for a rest that is tiny beside 1; or of x.
template <class T, class... Rest>
inline SplitExpOfBatch<T> split_exp_of_batch(xsimd::batch<T> x, Rest... rest) {
  using Batch = xsimd::batch<T>;
  const Batch bounded = xsimd::max(Batch(ExpConstants<T>::kLowestSplit), x);
  const Batch n = nearest_power_of_two<T>(bounded);
  return {exp_of_reduced<T>((reduced_by<T>(n, bounded) + ... + rest)), n};
}

// Kept out of Pack::generate's lambda: the loop over the parts is what the compiler unrolls.
template <class T>
inline Pack<T> exp(const Pack<T>& x) {
  return Pack<T>::generate([&](int i) { return exp_of_batch<T>(x.part[i]); });
}
template <class T>
inline Pack<T> expm1(const Pack<T>& x) {
  return Pack<T>::generate([&](int i) { return xsimd::expm1(x.part[i]); });
}
template <class T>
inline Pack<T> tanh(const Pack<T>& x) {
  return Pack<T>::generate([&](int i) { return xsimd::tanh(x.part[i]); });
}

template <class T>
inline Pack<T> multiply_add(const Pack<T>& a, const Pack<T>& b, const Pack<T>& c) {
  return Pack<T>::generate([&](int i) { return xsimd::fma(a.part[i], b.part[i], c.part[i]); });
}

// What the rounded product a * b lacks of the exact one. Without a fused multiply-add by splitting
// both factors (Dekker, "A floating-point technique for extending the available precision", 1971).
template <class T>
inline xsimd::batch<T> product_error_of_batch(xsimd::batch<T> a, xsimd::batch<T> b,
                                              xsimd::batch<T> product) {
#if defined(__FMA__) || defined(__aarch64__)
  return xsimd::fma(a, b, -product);
#else
  const auto high_half = [](xsimd::batch<T> x) {
    const auto shifted = x * xsimd::batch<T>(sizeof(T) == 4 ? T(0x1p12 + 1) : T(0x1p27 + 1));
    return shifted - (shifted - x);
  };
  const auto a_high = high_half(a), b_high = high_half(b);
  const auto a_low = a - a_high, b_low = b - b_high;
  return ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low;
#endif
}

template <class T>
inline xsimd::batch<T> fused_multiply_add_of_batch(xsimd::batch<T> a, xsimd::batch<T> b,
                                                   xsimd::batch<T> c) {
#if defined(__FMA__) || defined(__aarch64__)
  return xsimd::fma(a, b, c);
#else
  const auto product = a * b;
  return (product + c) + product_error_of_batch<T>(a, b, product);
#endif
}

// exp(-a^2/2), as formulas::split_gauss says.
template <class T>
inline SplitExpOfBatch<T> split_gauss_of_batch(xsimd::batch<T> a) {
  using Batch = xsimd::batch<T>;
  const Batch half = a * Batch(T(-0.5));
  const Batch exponent = half * a;
#if defined(__FMA__) || defined(__aarch64__)
  // The rounding is left out of the reduced argument: its first two terms are exact.
  using Constants = ExpConstants<T>;
  const Batch n = nearest_power_of_two<T>(exponent);
  Batch r = xsimd::fma(half, a, n * Batch(-Constants::kLn2High));
  r = xsimd::fnma(n, Batch(Constants::kLn2Low), r);
  return {exp_of_reduced<T>(r), n};
#else
  return split_exp_of_batch<T>(exponent, product_error_of_batch<T>(half, a, exponent));
#endif
}

}  // namespace gradkern::cpu::GRADKERN_ISA
