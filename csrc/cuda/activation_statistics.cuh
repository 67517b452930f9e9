// An activation's value and the statistics of what is written, in one pass: one block for each
// chunk, the last block merges the chunks in their order. Bytes moved: the input read once, the
// output written once.
//
// Active elements are counted for each channel in shared memory, where the channels fit, and added
// up in device memory as float64: whole numbers, so that the order of the blocks does not show.
#pragma once

#include "cuda/activation.cuh"
#include "cuda/last_block.cuh"
#include "cuda/measured_output.cuh"

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

struct LastOfChunks;

// Occupancy: 3 blocks on an SM.
template <class Formula, class T>
__global__ void __launch_bounds__(kThreads, 3) activation_statistics_kernel(
    const __grid_constant__ KernelParameter<ActivationStatisticsParameters> p) {
  using Statistics = formulas::ActivationStatistics;
  using Narrow = NarrowOf<T>;
  const int64_t begin = blockIdx.x * p.activation.chunk;
  const int64_t left = p.activation.numel - begin;
  const int64_t size = left < p.activation.chunk ? left : p.activation.chunk;
  const T* in = static_cast<const T*>(p.activation.in[0]) + begin;
  T* out = static_cast<T*>(p.activation.out[0]) + begin;
  const auto parameters = parameters_of<Narrow>(p.activation.parameters);

  const auto measure = [&](T x, T& stored) {
    return store_and_measure<Formula>(Formula::at(narrow(x), parameters), parameters, stored);
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
  auto partial = merge_measured<T>(lanes, [&](auto add) {
    each_element<1>(in, size, [&](T x) {
      T stored;
      add(measure(x, stored));
    });
  });
  const int64_t blocks = gridDim.x;
  if (blocks > 1) {
    if (threadIdx.x == 0) write_partial(p.partials, blockIdx.x, partial);
    if (!is_last_block<LastOfChunks>(p.counter, blocks)) return;
    partial = merge_partials<Statistics>(p.partials, blocks, 0);
  }
  if (threadIdx.x == 0) write_statistics(p.statistics, p.activation.numel, partial);
}

}  // namespace gradkern::cuda
