// Barriers, warp collectives and fences.
//
// Each takes, as a last argument that kernels leave out, the line it was called from. There is no
// __activemask(): what it returns depends on how the hardware happened to schedule the warp, so no
// kernel can rely on it.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "engine.h"

inline void __syncthreads(simt::SourceLine where = simt::SourceLine::current()) {
  simt::block_barrier(simt::BarrierKind::kSync, false, where);
}
inline int __syncthreads_count(int predicate,
                               simt::SourceLine where = simt::SourceLine::current()) {
  return simt::block_barrier(simt::BarrierKind::kCount, predicate != 0, where);
}
inline int __syncthreads_and(int predicate, simt::SourceLine where = simt::SourceLine::current()) {
  return simt::block_barrier(simt::BarrierKind::kAnd, predicate != 0, where);
}
inline int __syncthreads_or(int predicate, simt::SourceLine where = simt::SourceLine::current()) {
  return simt::block_barrier(simt::BarrierKind::kOr, predicate != 0, where);
}

inline void __syncwarp(unsigned mask = 0xffffffffu,
                       simt::SourceLine where = simt::SourceLine::current()) {
  simt::warp_collective(simt::WarpOperation::kSync, mask, 0, 0, where);
}

inline unsigned __ballot_sync(unsigned mask, int predicate,
                              simt::SourceLine where = simt::SourceLine::current()) {
  return static_cast<unsigned>(
      simt::warp_collective(simt::WarpOperation::kVote, mask, predicate != 0, 0, where));
}
inline int __any_sync(unsigned mask, int predicate,
                      simt::SourceLine where = simt::SourceLine::current()) {
  return __ballot_sync(mask, predicate, where) != 0;
}
inline int __all_sync(unsigned mask, int predicate,
                      simt::SourceLine where = simt::SourceLine::current()) {
  return __ballot_sync(mask, predicate, where) == mask;
}

namespace simt {

// CUDA has shuffles of 4 and 8 bytes and of the 16-bit floats; smaller integers promote to int.
template <class T>
using Shuffled = std::conditional_t<std::is_integral_v<T> && (sizeof(T) < 4), int, T>;

template <class T>
inline constexpr bool kCanShuffle =
    std::is_arithmetic_v<T> || std::is_same_v<T, __half> || std::is_same_v<T, __half2> ||
    std::is_same_v<T, __nv_bfloat16> || std::is_same_v<T, __nv_bfloat162>;

// Takes part with `value`; returns the value of lane `source`, or `value` itself where the shuffle
// reaches beyond the segment.
template <class T>
T shuffle(unsigned mask, T value, unsigned source, bool within_segment, SourceLine where) {
  static_assert(kCanShuffle<T> && sizeof(T) <= 8, "CUDA has no shuffle of this type");
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = warp_collective(WarpOperation::kShuffle, mask, bits, within_segment ? source : lane_index,
                         where);
  std::memcpy(static_cast<void*>(&value), &bits, sizeof(T));
  return value;
}

inline void check_shuffle(int width, unsigned distance, SourceLine where) {
  if (width < 1 || width > warpSize || (width & (width - 1)) != 0) {
    fail(where, "the width of a shuffle was %d, must be a power of two from 1 to 32", width);
  }
  if (distance >= static_cast<unsigned>(warpSize)) {
    fail(where, "the distance of a shuffle was %u, must be below 32", distance);
  }
}

inline unsigned lane_in_segment(int width) { return lane_index & static_cast<unsigned>(width - 1); }
inline unsigned first_of_segment(int width) {
  return lane_index & ~static_cast<unsigned>(width - 1);
}

}  // namespace simt

template <class T>
simt::Shuffled<T> __shfl_sync(unsigned mask, T value, int source, int width = warpSize,
                              simt::SourceLine where = simt::SourceLine::current()) {
  simt::check_shuffle(width, 0, where);
  const unsigned lane =
      simt::first_of_segment(width) | (static_cast<unsigned>(source) & (width - 1));
  return simt::shuffle<simt::Shuffled<T>>(mask, value, lane, true, where);
}
template <class T>
simt::Shuffled<T> __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                                 simt::SourceLine where = simt::SourceLine::current()) {
  simt::check_shuffle(width, delta, where);
  return simt::shuffle<simt::Shuffled<T>>(mask, value, simt::lane_index - delta,
                                          simt::lane_in_segment(width) >= delta, where);
}
template <class T>
simt::Shuffled<T> __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                                   simt::SourceLine where = simt::SourceLine::current()) {
  simt::check_shuffle(width, delta, where);
  return simt::shuffle<simt::Shuffled<T>>(
      mask, value, simt::lane_index + delta,
      simt::lane_in_segment(width) + delta < static_cast<unsigned>(width), where);
}
// A lane may read from an earlier segment, but not from a later one.
template <class T>
simt::Shuffled<T> __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = warpSize,
                                  simt::SourceLine where = simt::SourceLine::current()) {
  simt::check_shuffle(width, static_cast<unsigned>(lane_mask), where);
  const unsigned lane = simt::lane_index ^ static_cast<unsigned>(lane_mask);
  return simt::shuffle<simt::Shuffled<T>>(
      mask, value, lane, lane < simt::first_of_segment(width) + static_cast<unsigned>(width),
      where);
}

// The lanes of the mask that hold the same value, bit for bit.
template <class T>
unsigned __match_any_sync(unsigned mask, T value,
                          simt::SourceLine where = simt::SourceLine::current()) {
  static_assert(std::is_arithmetic_v<T> && sizeof(T) >= 4, "CUDA has no match of this type");
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return static_cast<unsigned>(
      simt::warp_collective(simt::WarpOperation::kMatch, mask, bits, 0, where));
}

inline void __threadfence() { simt::fence(); }
inline void __threadfence_block() { simt::fence(); }
inline void __threadfence_system() { simt::fence(); }
inline void __nanosleep(unsigned) { simt::yield(); }

[[noreturn]] inline void __trap(simt::SourceLine where = simt::SourceLine::current()) {
  simt::fail(where, "__trap()");
}
