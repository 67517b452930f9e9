// Arithmetic that CUDA adds to the C library.
//
// Absent on purpose: the fast approximations (__expf, __fdividef, ...). Here they would be exact,
// so no test could see their error. rsqrtf is correctly rounded here and up to 2 ulp off on a GPU
// (CUDA C++ Programming Guide, mathematical functions); whoever uses it must leave room for that.
#pragma once

#include <math.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace simt {

template <class To, class From>
To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

template <class A, class B>
using Arithmetic = std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>,
                                    std::common_type_t<decltype(+A()), decltype(+B())>>;

}  // namespace simt

// CUDA's min and max take mixed types, and of a NaN and a number give the number, unlike std::min.
template <class A, class B>
constexpr simt::Arithmetic<A, B> min(A a, B b) {
  using Result = simt::Arithmetic<A, B>;
  if constexpr (std::is_floating_point_v<Result>) {
    return std::fmin(static_cast<Result>(a), static_cast<Result>(b));
  } else {
    return static_cast<Result>(b) < static_cast<Result>(a) ? static_cast<Result>(b)
                                                           : static_cast<Result>(a);
  }
}
template <class A, class B>
constexpr simt::Arithmetic<A, B> max(A a, B b) {
  using Result = simt::Arithmetic<A, B>;
  if constexpr (std::is_floating_point_v<Result>) {
    return std::fmax(static_cast<Result>(a), static_cast<Result>(b));
  } else {
    return static_cast<Result>(a) < static_cast<Result>(b) ? static_cast<Result>(b)
                                                           : static_cast<Result>(a);
  }
}

inline float rsqrtf(float x) { return static_cast<float>(1 / std::sqrt(static_cast<double>(x))); }
inline double rsqrt(double x) { return 1 / std::sqrt(x); }

// Rounded to nearest and never fused with a neighbour: the build passes -ffp-contract=off, so that
// the plain operators aren't either.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __frcp_rn(float x) { return 1 / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline double __drcp_rn(double x) { return 1 / x; }
inline double __dsqrt_rn(double x) { return std::sqrt(x); }

// Conversions, to nearest even.
inline float __double2float_rn(double x) { return static_cast<float>(x); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __ll2float_rn(long long x) { return static_cast<float>(x); }
inline double __int2double_rn(int x) { return x; }
inline double __uint2double_rn(unsigned x) { return x; }
inline double __ll2double_rn(long long x) { return static_cast<double>(x); }
inline double __ull2double_rn(unsigned long long x) { return static_cast<double>(x); }

inline int __float_as_int(float x) { return simt::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return simt::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return simt::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return simt::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return simt::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return simt::bit_cast<double>(x); }
inline int __double2hiint(double x) {
  return static_cast<int>(simt::bit_cast<std::uint64_t>(x) >> 32);
}
inline int __double2loint(double x) { return static_cast<int>(simt::bit_cast<std::uint64_t>(x)); }
inline double __hiloint2double(int high, int low) {
  return simt::bit_cast<double>(
      (static_cast<std::uint64_t>(static_cast<std::uint32_t>(high)) << 32) |
      static_cast<std::uint32_t>(low));
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __clzll(long long x) {
  return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x));
}
inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int bit = 0; bit < 32; ++bit) reversed |= (x >> bit & 1u) << (31 - bit);
  return reversed;
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<std::uint64_t>(a) * b >> 32);
}
