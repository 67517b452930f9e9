// Merges the partial results of a block's threads, in an order that depends on the thread indices
// alone.
#pragma once

#include "cuda/elements.cuh"
#include "cuda/platform.h"
#include "formulas/norms.h"

namespace gradkern::cuda {

// The result is in thread 0. All threads of the block must call it.
template <class Formula>
__device__ formulas::Partial<Formula::kFields> block_merge(
    formulas::Partial<Formula::kFields> partial, double order) {
  using Partial = formulas::Partial<Formula::kFields>;
  constexpr int kWarps = kThreads / 32;
  Partial(&warps)[kWarps] = shared_array<Formula, Partial, kWarps>();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int offset = 16; offset > 0; offset /= 2) {
    Partial other;
#pragma unroll
    for (int f = 0; f < Formula::kFields; f++) {
      other.value[f] = __shfl_down_sync(0xffffffffu, partial.value[f], offset);
    }
    Formula::merge(partial, other, order);
  }
  __syncthreads();  // The call before may still be reading the array.
  if (lane == 0) warps[warp] = partial;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < kWarps; w++) Formula::merge(partial, warps[w], order);
  }
  return partial;
}

// Hands thread 0's value to all threads of the block.
template <class Tag, class T>
__device__ T broadcast(T value) {
  T(&shared)[1] = shared_array<Tag, T, 1>();
  __syncthreads();  // The call before may still be reading.
  if (threadIdx.x == 0) shared[0] = value;
  __syncthreads();
  return shared[0];
}

}  // namespace gradkern::cuda
