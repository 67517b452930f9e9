// Merges the values of the threads that share a row, a warp's or a block's; all of them get the
// result. The order depends on the thread indices alone.
#pragma once

#include "cuda/elements.cuh"
#include "cuda/platform.h"
#include "formulas/compensated_sum.h"

namespace gradkern::cuda {

template <class T>
__device__ __forceinline__ T exchange(T value, int lanes) {
  return __shfl_xor_sync(0xffffffffu, value, lanes);
}
template <class Wide>
__device__ __forceinline__ formulas::PlainSum<Wide> exchange(const formulas::PlainSum<Wide>& value,
                                                             int lanes) {
  return {exchange(value.sum, lanes)};
}
template <class Wide>
__device__ __forceinline__ formulas::CompensatedSum<Wide> exchange(
    const formulas::CompensatedSum<Wide>& value, int lanes) {
  return {exchange(value.sum, lanes), exchange(value.error, lanes)};
}

// `merge(a, b)` gives the same bits as `merge(b, a)`, so that all lanes agree. All threads of the
// group must call it. Tag: one for each call in a kernel.
template <int kGroup, class Tag, class Value, class Merge>
__device__ Value group_merge(Value value, Merge merge) {
  static_assert(kGroup == 32 || kGroup == kThreads);
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) value = merge(value, exchange(value, lanes));
  if constexpr (kGroup > 32) {
    constexpr int kWarps = kGroup / 32;
    Value(&warps)[kWarps] = shared_array<Tag, Value, kWarps>();
    __syncthreads();  // The call before may still be reading.
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
    __syncthreads();
    value = warps[0];
#pragma unroll
    for (int w = 1; w < kWarps; w++) value = merge(value, warps[w]);
  }
  return value;
}

}  // namespace gradkern::cuda
