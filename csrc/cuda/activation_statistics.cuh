// An activation's value and the statistics of what is written, in one pass: one block for each
// chunk, the last block merges the chunks in their order. Bytes moved: the input read once, the
// output written once.
//
// Active elements are counted for each channel in shared memory, where the channels fit, and added
// up in device memory as float64: whole numbers, so that the order of the blocks does not show.
#pragma once

#include "cuda/activation.cuh"
#include "cuda/block_merge.cuh"
#include "cuda/last_block.cuh"
#include "formulas/activation_statistics.h"

namespace gradkern::cuda {

struct ActivationStatisticsParameters {
  ActivationParameters activation;
  Channels channels;
  double* partials;   // kFields numbers for each block
  unsigned* counter;  // zero before the launch
  double*
      statistics;  // kActivationStatisticCount numbers, then the channels' counts, which are zero
};

// 8 KiB of shared memory: a block that has so many elements of its own to count.
inline constexpr int kCountedChannels = 2048;

struct ActiveCounts;

// The block's counts of active elements.
class ActiveCounter {
 public:
  __device__ explicit ActiveCounter(const ActivationStatisticsParameters& p)
      : channels_(p.channels),
        total_(p.statistics + kActivationStatisticCount),
        shared_(shared_array<ActiveCounts, unsigned, kCountedChannels>()) {
    if (!is_shared()) return;
    for (int64_t c = threadIdx.x; c < channels_.count; c += kThreads) shared_[c] = 0;
    __syncthreads();
  }

  // `element` counts from the first of the tensor.
  __device__ void add(int64_t element) {
    const int64_t channel = element / channels_.inner % channels_.count;
    if (is_shared()) {
      atomicAdd(&shared_[channel], 1u);
    } else {
      atomicAdd(total_ + channel, 1.0);
    }
  }

  __device__ void finish() {
    if (!is_shared()) return;
    __syncthreads();
    for (int64_t c = threadIdx.x; c < channels_.count; c += kThreads) {
      if (shared_[c] != 0) atomicAdd(total_ + c, static_cast<double>(shared_[c]));
    }
  }

 private:
  __device__ bool is_shared() const {
    return channels_.count > 0 && channels_.count <= kCountedChannels;
  }

  Channels channels_;
  double* total_;
  unsigned (&shared_)[kCountedChannels];
};

struct SawOnlyFinite;
struct LastOfChunks;

// Occupancy: 3 blocks on an SM.
template <class Formula, class T>
__global__ void __launch_bounds__(kThreads, 3) activation_statistics_kernel(
    const __grid_constant__ KernelParameter<ActivationStatisticsParameters> p) {
  using Statistics = formulas::ActivationStatistics;
  using Partial = formulas::Partial<Statistics::kFields>;
  using Narrow = NarrowOf<T>;
  const int64_t begin = blockIdx.x * p.activation.chunk;
  const int64_t left = p.activation.numel - begin;
  const int64_t size = left < p.activation.chunk ? left : p.activation.chunk;
  const T* in = static_cast<const T*>(p.activation.in[0]) + begin;
  T* out = static_cast<T*>(p.activation.out[0]) + begin;
  const auto parameters = parameters_of<Narrow>(p.activation.parameters);

  // What is stored is what is measured.
  const auto measure = [&](T x, T& stored) {
    const auto at = Formula::at(narrow(x), parameters);
    round_to(at.value, stored);
    const Narrow value = narrow(stored);
    const Narrow saturated = Formula::saturated(at, parameters) ? Narrow(1) : Narrow(0);
    return Statistics::Measured<Narrow, double>{
        value, saturated, static_cast<double>(value),
        static_cast<double>(formulas::absolute(at.derivative))};
  };

  ActiveCounter counter(p);
  Statistics::Lanes<Narrow, double> lanes;
  const Operands<T, 1, 1> operands{{in}, {out}};
  map_operands<1>(operands, size, [&](int64_t i, const T(&x)[1], T(&y)[1]) {
    const auto measured = measure(x[0], y[0]);
    lanes.add(measured);
    if (p.channels.count > 0 && measured.saturated == Narrow(0)) counter.add(begin + i);
  });
  counter.finish();
  Partial partial = block_merge<Statistics>(formulas::partial_of<Statistics>(lanes), 0);
  if (!broadcast<SawOnlyFinite>(Statistics::saw_only_finite(partial))) {
    Statistics::Lanes<Narrow, double> exact;
    each_element<1>(in, size, [&](T x) {
      T stored;
      exact.add_finite(measure(x, stored));
    });
    partial = block_merge<Statistics>(formulas::partial_of<Statistics>(exact), 0);
  }
  const int64_t blocks = gridDim.x;
  if (blocks > 1) {
    if (threadIdx.x == 0) {
      double* fields = p.partials + blockIdx.x * static_cast<int64_t>(Statistics::kFields);
      for (int f = 0; f < Statistics::kFields; f++) fields[f] = partial.value[f];
    }
    if (!is_last_block<LastOfChunks>(p.counter, blocks)) return;
    partial = Statistics::empty(0);
    for (int64_t block = threadIdx.x; block < blocks; block += kThreads) {
      Partial read_back;
      const double* fields = p.partials + block * Statistics::kFields;
      for (int f = 0; f < Statistics::kFields; f++) read_back.value[f] = __ldcg(fields + f);
      Statistics::merge(partial, read_back, 0);
    }
    partial = block_merge<Statistics>(partial, 0);
  }
  if (threadIdx.x != 0) return;
  p.statistics[kActivationCount] = static_cast<double>(p.activation.numel);
  for (int f = 0; f < Statistics::kFields; f++) {
    p.statistics[kActivationSum + f] = partial.value[f];
  }
}

}  // namespace gradkern::cuda
