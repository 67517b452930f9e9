// Feeds the elements of dense memory to a reduction's lanes.
//
// Compiled once per instruction set, like pack.h.
#pragma once

#include <cstring>
#include <limits>
#include <type_traits>

#include "cpu/convert.h"
#include "cpu/pack.h"
#include "cpu/prefetch.h"
#include "cpu/storage.h"

namespace gradkern::cpu::GRADKERN_ISA {

template <class T>
inline constexpr bool kIsComplex = false;
template <class T>
inline constexpr bool kIsComplex<Complex<T>> = true;

// The storage's representation of a padding element: 0 or infinity.
template <class T>
T padding_element(double value) {
  const bool infinite = value != 0;
  if constexpr (std::is_same_v<T, BFloat16>) {
    return {static_cast<uint16_t>(infinite ? 0x7f80 : 0)};
  } else if constexpr (std::is_same_v<T, Float16>) {
    return {static_cast<uint16_t>(infinite ? 0x7c00 : 0)};
  } else if constexpr (kIsComplex<T>) {
    return {static_cast<decltype(T::real)>(value), 0};
  } else {
    return static_cast<T>(value);
  }
}

template <class Lanes, class T>
GRADKERN_INLINE void add_group(const T* from, Lanes& lanes) {
  if constexpr (kGroup<T> == kLanes) {
    const auto x = load(from);
    lanes.add(x.narrow, x.wide);
  } else {
    const auto even = load_even(from);
    lanes.add(even.narrow, even.wide);
    const auto odd = load_odd(from);
    lanes.add(odd.narrow, odd.wide);
  }
}

// Feeds n elements to the lanes, the last few padded. Returns the number of padding elements.
// Always inlined: behind a call the lanes would live in memory, which halves the speed.
// kPrefetches: not for elements that are in the cache.
template <bool kPrefetches = true, class T, class Lanes>
GRADKERN_INLINE int add_all(const T* data, int64_t n, double padding, Lanes& lanes) {
  const Prefetch prefetch(n * sizeof(T));
  int64_t i = 0;
  for (; i + kGroup<T> <= n; i += kGroup<T>) {
    if constexpr (kPrefetches) prefetch.twice_after(data + i);
    add_group(data + i, lanes);
  }
  const int rest = static_cast<int>(n - i);
  if (rest == 0) return 0;
  T padded[kGroup<T>];
  for (T& element : padded) element = padding_element<T>(padding);
  std::memcpy(padded, data + i, rest * sizeof(T));
  add_group(static_cast<const T*>(padded), lanes);
  return kGroup<T> - rest;
}

}  // namespace gradkern::cpu::GRADKERN_ISA
