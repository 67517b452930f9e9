// The statistics of what an activation writes, by the kernel that writes it.
#pragma once

#include "backend.h"
#include "cuda/block_merge.cuh"
#include "cuda/elements.cuh"
#include "cuda/partials.cuh"
#include "formulas/activation_statistics.h"

namespace gradkern::cuda {

template <class T>
using MeasuredElement = formulas::ActivationStatistics::Measured<NarrowOf<T>, double>;

// What is stored is what is measured.
template <class Formula, class T, class At>
__device__ __forceinline__ MeasuredElement<T> store_and_measure(
    const At& at, const formulas::Parameters<NarrowOf<T>>& parameters, T& stored) {
  using Narrow = NarrowOf<T>;
  round_to(at.value, stored);
  const Narrow value = narrow(stored);
  return {value, Formula::saturated(at, parameters) ? Narrow(1) : Narrow(0),
          static_cast<double>(value), static_cast<double>(formulas::absolute(at.derivative))};
}

struct SawOnlyFinite;

// The block's partial result, in thread 0. again(add): calls add(measured) for the same elements
// once more, which happens only if one of them was not finite.
template <class T, class Again>
__device__ __forceinline__ auto merge_measured(
    const formulas::ActivationStatistics::Lanes<NarrowOf<T>, double>& lanes, Again again) {
  using Statistics = formulas::ActivationStatistics;
  auto partial = block_merge<Statistics>(formulas::partial_of<Statistics>(lanes), 0);
  if (!broadcast<SawOnlyFinite>(Statistics::saw_only_finite(partial))) {
    Statistics::Lanes<NarrowOf<T>, double> exact;
    again([&](const MeasuredElement<T>& measured) { exact.add_finite(measured); });
    partial = block_merge<Statistics>(formulas::partial_of<Statistics>(exact), 0);
  }
  return partial;
}

// The row that the operator returns: by one thread.
__device__ __forceinline__ void write_statistics(
    double* row, int64_t numel,
    const formulas::Partial<formulas::ActivationStatistics::kFields>& partial) {
  // Scalar: once for each tensor.
  row[kActivationCount] = static_cast<double>(numel);
  for (int f = 0; f < formulas::ActivationStatistics::kFields; f++) {
    // Scalar: as above.
    row[kActivationSum + f] = partial.value[f];
  }
}

}  // namespace gradkern::cuda
