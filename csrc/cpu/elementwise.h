// Loops over dense memory that replace or make elements, sixteen at a time.
//
// Compiled once per instruction set, like pack.h.
#pragma once

#include <array>
#include <cstring>

#include "cpu/convert.h"
#include "cpu/prefetch.h"

namespace gradkern::cpu::GRADKERN_ISA {

// The type in which an element of storage type T is computed.
template <class T>
using NarrowOf = typename decltype(load(static_cast<const T*>(nullptr)).narrow)::value_type;

// Calls map(in packs, out packs) for n elements of kIn inputs and kOut outputs; the last few go
// through padded copies, so that every element takes the same arithmetic wherever it lies. An
// output may be one of the inputs.
template <class T, int kIn, int kOut, class Map>
inline void map_elements(const std::array<const T*, kIn>& in, const std::array<T*, kOut>& out,
                         int64_t n, Map map) {
  using Packed = Pack<NarrowOf<T>>;
  const auto step = [&](const std::array<const T*, kIn>& from, const std::array<T*, kOut>& to) {
    std::array<Packed, kIn> x;
    std::array<Packed, kOut> y;
    for (int k = 0; k < kIn; k++) x[k] = load(from[k]).narrow;
    map(x, y);
    for (int k = 0; k < kOut; k++) store(y[k], to[k]);
  };
  const Prefetch prefetch(n * sizeof(T));
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    std::array<const T*, kIn> from;
    std::array<T*, kOut> to;
    for (int k = 0; k < kIn; k++) {
      from[k] = in[k] + i;
      prefetch.after(from[k]);
    }
    for (int k = 0; k < kOut; k++) {
      to[k] = out[k] + i;
      prefetch.for_writing_after(to[k]);
    }
    step(from, to);
  }
  if (i == n) return;
  const size_t rest = (n - i) * sizeof(T);
  T padded_in[kIn][kLanes] = {}, padded_out[kOut][kLanes];
  std::array<const T*, kIn> from;
  std::array<T*, kOut> to;
  for (int k = 0; k < kIn; k++) {
    std::memcpy(padded_in[k], in[k] + i, rest);
    from[k] = padded_in[k];
  }
  for (int k = 0; k < kOut; k++) to[k] = padded_out[k];
  step(from, to);
  for (int k = 0; k < kOut; k++) std::memcpy(out[k] + i, padded_out[k], rest);
}

template <class T, class Map>
GRADKERN_INLINE void map_group(T* at, const Map& map) {
  const T* from = at;
  if constexpr (kGroup<T> == kLanes) {
    store(map(load(from).narrow), at);
  } else {
    store_pair(map(load_even(from).narrow), map(load_odd(from).narrow), at);
  }
}

// Replaces every element x of `data` by map(x); the last few by way of a padded copy.
template <class T, class Map>
GRADKERN_INLINE void map_in_place(T* data, int64_t n, const Map& map) {
  const Prefetch prefetch(n * sizeof(T));
  int64_t i = 0;
  for (; i + kGroup<T> <= n; i += kGroup<T>) {
    prefetch.for_writing_after(data + i);
    map_group(data + i, map);
  }
  if (i == n) return;
  T padded[kGroup<T>] = {};
  std::memcpy(padded, data + i, (n - i) * sizeof(T));
  map_group(padded, map);
  std::memcpy(data + i, padded, (n - i) * sizeof(T));
}

}  // namespace gradkern::cpu::GRADKERN_ISA
