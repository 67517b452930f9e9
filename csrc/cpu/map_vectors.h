// An elementwise loop over dense memory, a register at a time.
//
// Compiled once per instruction set, like pack.h.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>

#include "cpu/always_inline.h"
#include "cpu/prefetch.h"
#include "cpu/vector.h"

namespace gradkern::cpu::GRADKERN_ISA {

// Calls map(i, x, y) for n elements, with vectors of kIn inputs in x and of kOut outputs in y, from
// element i on; the last few go through padded copies, so that every element takes the same
// arithmetic wherever it lies. An output may be one of the inputs.
template <class T, int kIn, int kOut, class Map>
GRADKERN_INLINE void map_indexed_vectors(const std::array<const T*, kIn>& in,
                                         const std::array<T*, kOut>& out, int64_t n, Map map) {
  constexpr int kSize = VectorOf<T>::kSize;
  const Prefetch prefetch(n * sizeof(T));
  const int64_t whole = n - n % kSize;
  const size_t rest = (n - whole) * sizeof(T);
  T padded_in[kIn][kSize] = {}, padded_out[kOut][kSize];
  std::array<const T*, kIn> from = in;
  std::array<T*, kOut> to = out;
  // One loop, gone through once more for the rest: one copy of the arithmetic.
  for (int64_t first = 0, count = whole;; first = whole, count = kSize) {
    for (int64_t i = 0; i < count; i += kSize) {
      std::array<VectorOf<T>, kIn> x;
      std::array<VectorOf<T>, kOut> y;
      for (int k = 0; k < kIn; k++) {
        prefetch.after(from[k] + i);
        x[k] = load_vector<T>(from[k] + i);
      }
      map(first + i, x, y);
      for (int k = 0; k < kOut; k++) {
        prefetch.for_writing_after(to[k] + i);
        store_vector<T>(y[k], to[k] + i);
      }
    }
    if (first + count >= n) break;
    for (int k = 0; k < kIn; k++) {
      std::memcpy(padded_in[k], in[k] + whole, rest);
      from[k] = padded_in[k];
    }
    for (int k = 0; k < kOut; k++) to[k] = padded_out[k];
  }
  if (rest == 0) return;
  for (int k = 0; k < kOut; k++) std::memcpy(out[k] + whole, padded_out[k], rest);
}

// The same for a map(x, y) to which places are nothing.
template <class T, int kIn, int kOut, class Map>
inline void map_vectors(const std::array<const T*, kIn>& in, const std::array<T*, kOut>& out,
                        int64_t n, Map map) {
  map_indexed_vectors<T, kIn, kOut>(in, out, n,
                                    [&](int64_t, const auto& x, auto& y) { map(x, y); });
}

// The same for rows of which the elements of a column have something in common: prepare(i) gives
// what map(common, x, y) computes those from column i on with. It is asked for once for several
// rows.
template <class T, int kIn, int kOut, class Prepare, class Map>
inline void map_rows(const std::array<const T*, kIn>& in, const std::array<T*, kOut>& out,
                     int64_t rows, int64_t stride, int64_t n, Prepare prepare, Map map) {
  constexpr int kSize = VectorOf<T>::kSize;
  constexpr int64_t kRowsAtOnce = 8;
  const Prefetch prefetch(rows * stride * sizeof(T));
  T padded_in[kIn][kSize] = {}, padded_out[kOut][kSize];
  for (int64_t first = 0; first < rows; first += kRowsAtOnce) {
    const int64_t behind = std::min(first + kRowsAtOnce, rows);
    for (int64_t i = 0; i < n; i += kSize) {
      const bool whole = i + kSize <= n;
      const size_t rest = whole ? 0 : (n - i) * sizeof(T);
      const auto common = prepare(i);
      for (int64_t row = first; row < behind; row++) {
        const int64_t at = row * stride + i;
        std::array<VectorOf<T>, kIn> x;
        std::array<VectorOf<T>, kOut> y;
        for (int k = 0; k < kIn; k++) {
          prefetch.rows_after(in[k] + at, kRowsAtOnce, stride);
          if (!whole) std::memcpy(padded_in[k], in[k] + at, rest);
          x[k] = load_vector<T>(whole ? in[k] + at : padded_in[k]);
        }
        map(common, x, y);
        for (int k = 0; k < kOut; k++) {
          store_vector<T>(y[k], whole ? out[k] + at : padded_out[k]);
          if (!whole) std::memcpy(out[k] + at, padded_out[k], rest);
        }
      }
    }
  }
}

// The same for one of many short runs: the last vector lies over the one before it instead of being
// padded, which took a third of the time of planes of 7 * 7. map(x, y) may see an element twice.
template <class T, int kIn, int kOut, class Map>
inline void map_run(const std::array<const T*, kIn>& in, const std::array<T*, kOut>& out, int64_t n,
                    Map map) {
  constexpr int kSize = VectorOf<T>::kSize;
  const Prefetch prefetch(n * sizeof(T));
  const bool is_short = n < kSize;
  const int64_t last = is_short ? 0 : n - kSize;
  // Copied before anything is written: an output may be one of the inputs.
  T last_in[kIn][kSize] = {}, short_out[kOut][kSize];
  for (int k = 0; k < kIn; k++) {
    std::memcpy(last_in[k], in[k] + last, (is_short ? n : kSize) * sizeof(T));
  }
  for (int64_t i = 0; i < last + kSize; i += kSize) {
    const int64_t at = i < last ? i : last;
    std::array<VectorOf<T>, kIn> x;
    std::array<VectorOf<T>, kOut> y;
    for (int k = 0; k < kIn; k++) {
      prefetch.after(in[k] + at);
      x[k] = load_vector<T>(i < last ? in[k] + at : last_in[k]);
    }
    map(x, y);
    for (int k = 0; k < kOut; k++) {
      prefetch.for_writing_after(out[k] + at);
      store_vector<T>(y[k], is_short ? short_out[k] : out[k] + at);
    }
  }
  if (!is_short) return;
  for (int k = 0; k < kOut; k++) std::memcpy(out[k], short_out[k], n * sizeof(T));
}

}  // namespace gradkern::cpu::GRADKERN_ISA
