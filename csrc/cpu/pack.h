// Sixteen virtual SIMD lanes, whatever the width of the machine's registers.
//
// A reduction that runs over packs adds the same elements in the same order on every instruction
// set, so its bits do not depend on the machine. Operators and the vocabulary of formulas/scalar.h
// are overloaded for packs here, once.
//
// This header, and all that includes it, is compiled once for each instruction set, into a
// namespace of its own: two builds of one inline function must never be merged by the linker.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <xsimd/xsimd.hpp>

#include "cpu/always_inline.h"
#include "formulas/scalar.h"

#ifndef GRADKERN_ISA
#error "define GRADKERN_ISA: the namespace of this instruction set's build"
#endif

namespace gradkern::cpu::GRADKERN_ISA {

inline constexpr int kLanes = 16;

template <class T>
struct Mask;

template <class T>
struct Pack {
  using value_type = T;
  using Batch = xsimd::batch<T>;
  static constexpr int kWidth = static_cast<int>(Batch::size);
  static constexpr int kParts = kLanes / kWidth;
  static_assert(kLanes % kWidth == 0);

  Batch part[kParts];

  Pack() = default;
  explicit Pack(T value) {
    for (Batch& b : part) b = Batch(value);
  }

  template <class F>
  static Pack generate(F part_of) {
    Pack result;
    for (int i = 0; i < kParts; i++) result.part[i] = part_of(i);
    return result;
  }

  static Pack load(const T* from) {
    return generate([&](int i) { return Batch::load_unaligned(from + i * kWidth); });
  }
  void store(T* to) const {
    for (int i = 0; i < kParts; i++) part[i].store_unaligned(to + i * kWidth);
  }
};

template <class T>
struct Mask {
  typename Pack<T>::Batch::batch_bool_type part[Pack<T>::kParts];

  template <class F>
  static Mask generate(F part_of) {
    Mask result;
    for (int i = 0; i < Pack<T>::kParts; i++) result.part[i] = part_of(i);
    return result;
  }
};

template <class T>
inline Pack<T> operator+(const Pack<T>& a, const Pack<T>& b) {
  return Pack<T>::generate([&](int i) { return a.part[i] + b.part[i]; });
}
template <class T>
inline Pack<T> operator-(const Pack<T>& a, const Pack<T>& b) {
  return Pack<T>::generate([&](int i) { return a.part[i] - b.part[i]; });
}
template <class T>
inline Pack<T> operator-(const Pack<T>& a) {
  return Pack<T>::generate([&](int i) { return -a.part[i]; });
}
template <class T>
inline Pack<T> operator*(const Pack<T>& a, const Pack<T>& b) {
  return Pack<T>::generate([&](int i) { return a.part[i] * b.part[i]; });
}
template <class T>
inline Pack<T> operator/(const Pack<T>& a, const Pack<T>& b) {
  return Pack<T>::generate([&](int i) { return a.part[i] / b.part[i]; });
}
template <class T>
inline Mask<T> operator==(const Pack<T>& a, const Pack<T>& b) {
  return Mask<T>::generate([&](int i) { return a.part[i] == b.part[i]; });
}
template <class T>
inline Mask<T> operator!=(const Pack<T>& a, const Pack<T>& b) {
  return Mask<T>::generate([&](int i) { return a.part[i] != b.part[i]; });
}
template <class T>
inline Mask<T> operator<(const Pack<T>& a, const Pack<T>& b) {
  return Mask<T>::generate([&](int i) { return a.part[i] < b.part[i]; });
}
template <class T>
inline Mask<T> operator>(const Pack<T>& a, const Pack<T>& b) {
  return Mask<T>::generate([&](int i) { return a.part[i] > b.part[i]; });
}

template <class T>
inline Pack<T> select(const Mask<T>& condition, const Pack<T>& if_true, const Pack<T>& if_false) {
  return Pack<T>::generate(
      [&](int i) { return xsimd::select(condition.part[i], if_true.part[i], if_false.part[i]); });
}
template <class T>
inline Pack<T> absolute(const Pack<T>& x) {
  return Pack<T>::generate([&](int i) { return xsimd::abs(x.part[i]); });
}
// What these give for a NaN operand differs between instruction sets: formulas do not rely on it.
template <class T>
inline Pack<T> larger(const Pack<T>& a, const Pack<T>& b) {
  return Pack<T>::generate([&](int i) { return xsimd::max(a.part[i], b.part[i]); });
}
template <class T>
inline Pack<T> smaller(const Pack<T>& a, const Pack<T>& b) {
  return Pack<T>::generate([&](int i) { return xsimd::min(a.part[i], b.part[i]); });
}
template <class T>
inline int count(const Mask<T>& condition) {
  int n = 0;
  for (const auto& part : condition.part) n += std::popcount(part.mask());
  return n;
}

// The extreme of all elements so far, in one register: sums need sixteen lanes of their own, and
// with them every register that extremes do not take.
template <class T>
struct RunningPack {
  using value_type = T;
  typename Pack<T>::Batch value;

  RunningPack() = default;
  explicit RunningPack(T initial) : value(initial) {}
};
template <class T>
inline RunningPack<T> include_larger(const Pack<T>& x, RunningPack<T> so_far) {
  for (const auto& part : x.part) so_far.value = xsimd::max(part, so_far.value);
  return so_far;
}

inline Pack<double> add_exact_product(const Pack<double>& a, const Pack<double>& b,
                                      const Pack<double>& c) {
  return Pack<double>::generate([&](int i) { return xsimd::fma(a.part[i], b.part[i], c.part[i]); });
}
// The C library's pow, lane by lane: the same bits on every instruction set.
inline Pack<double> power(const Pack<double>& base, double exponent) {
  alignas(64) double lanes[kLanes];
  base.store(lanes);
  for (double& lane : lanes) lane = std::pow(lane, exponent);
  return Pack<double>::load(lanes);
}

// A field of a reduction as sixteen lanes.
template <class T>
inline void store_lanes(const Pack<T>& field, double* lanes) {
  alignas(64) T values[kLanes];
  field.store(values);
  for (int i = 0; i < kLanes; i++) lanes[i] = values[i];
}
// A number for all lanes together: in the first, and nothing in the others.
inline void store_lanes(int64_t field, double* lanes) {
  lanes[0] = static_cast<double>(field);
  for (int i = 1; i < kLanes; i++) lanes[i] = 0;
}
// An extreme may be there twice.
template <class T>
inline void store_lanes(const RunningPack<T>& field, double* lanes) {
  constexpr int kWidth = Pack<T>::kWidth;
  alignas(64) T values[kWidth];
  field.value.store_unaligned(values);
  for (int i = 0; i < kLanes; i++) lanes[i] = values[i % kWidth];
}

}  // namespace gradkern::cpu::GRADKERN_ISA

template <class T>
struct gradkern::formulas::Running<gradkern::cpu::GRADKERN_ISA::Pack<T>> {
  using type = gradkern::cpu::GRADKERN_ISA::RunningPack<T>;
};
