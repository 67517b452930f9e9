// Partial results that blocks leave in device memory for the last of them to merge.
#pragma once

#include "cuda/block_merge.cuh"
#include "cuda/platform.h"
#include "formulas/norms.h"

namespace gradkern::cuda {

// By one thread.
template <int kFields>
__device__ __forceinline__ void write_partial(double* partials, int64_t index,
                                              const formulas::Partial<kFields>& partial) {
  double* fields = partials + index * kFields;
  // Scalar: once for each block.
  for (int f = 0; f < kFields; f++) fields[f] = partial.value[f];
}

// Merges the first `count`, thread t those at t, t + kThreads, ...: in an order that depends on
// `count` alone. The result is in thread 0. All threads of the block must call it.
template <class Formula>
__device__ __forceinline__ formulas::Partial<Formula::kFields> merge_partials(
    const double* partials, int64_t count, double order) {
  using Partial = formulas::Partial<Formula::kFields>;
  Partial merged = Formula::empty(order);
  for (int64_t i = threadIdx.x; i < count; i += kThreads) {
    Partial read_back;
    const double* fields = partials + i * Formula::kFields;
    for (int f = 0; f < Formula::kFields; f++) read_back.value[f] = __ldcg(fields + f);
    Formula::merge(merged, read_back, order);
  }
  return block_merge<Formula>(merged, order);
}

}  // namespace gradkern::cuda
