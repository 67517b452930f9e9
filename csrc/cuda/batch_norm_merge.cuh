// Batch normalisation's reductions: a block's threads are merged for each channel of its tile, and
// the last block of a tile merges the tile's chunks. Every merge runs in an order given by indices.
#pragma once

#include "cuda/batch_norm_slice.cuh"
#include "cuda/last_block.cuh"
#include "formulas/batch_norm.h"
#include "formulas/norms.h"

namespace gradkern::cuda {

// Two sums in float64.
struct SumPair {
  static constexpr int kFields = 2;
  using Partial = formulas::Partial<kFields>;

  static __device__ __forceinline__ void merge(Partial& into, const Partial& other) {
    into.value[0] += other.value[0];
    into.value[1] += other.value[1];
  }
};

// Of the values of a chunk, reduced to the sum and the sum of squares of x - shift.
struct MomentsOfChannel {
  static constexpr int kFields = 3;
  using Partial = formulas::Partial<kFields>;

  static __device__ formulas::Moments moments(const Partial& partial) {
    formulas::Moments moments;
    moments.count = partial.value[0];
    moments.mean = partial.value[1];
    moments.squares = partial.value[2];
    return moments;
  }
  static __device__ Partial partial(const formulas::Moments& moments) {
    return {{moments.count, moments.mean, moments.squares}};
  }

  static __device__ void merge(Partial& into, const Partial& other) {
    formulas::Moments merged = moments(into);
    merged.merge(moments(other));
    into = partial(merged);
  }

  static __device__ Partial of_chunk(const SumPair::Partial& sums, double count, double shift) {
    return partial(formulas::Moments::of_shifted(count, shift, sums.value[0], sums.value[1]));
  }

  static __device__ void write(const BatchNormCall& call, int64_t channel, const Partial& result) {
    const formulas::Moments m = moments(result);
    // Scalar: once for each channel, and so below.
    call.mean[channel] = m.mean;
    if (call.pass == BatchNormPass::kMoments) {
      // Scalar: as above.
      call.sum_squared_deviations[channel] = m.squares;
      return;
    }
    // Scalar: as above.
    call.invstd[channel] = formulas::invstd_of(m.variance(), call.eps);
    move_running(call, call.running_mean, channel, m.mean);
    move_running(call, call.running_var, channel, m.unbiased_variance());
  }

 private:
  static __device__ void move_running(const BatchNormCall& call, void* running, int64_t channel,
                                      double of_batch) {
    if (running == nullptr) return;
    visit_real_storage(static_cast<int32_t>(call.running_dtype), [&](auto storage) {
      using T = typename decltype(storage)::type;
      T* statistic = static_cast<T*>(running) + channel;
      // Scalar: once for each channel.
      const double before = static_cast<double>(narrow(*statistic));
      T after;
      round_to(formulas::moved(before, call.momentum, of_batch), after);
      // Scalar: as above.
      *statistic = after;
    });
  }
};

// The sums of dz and of dz * xhat.
struct GradientSums : SumPair {
  static __device__ Partial of_chunk(const Partial& sums, double, double) { return sums; }

  static __device__ void write(const BatchNormCall& call, int64_t channel, const Partial& sums) {
    // Scalar: once for each channel.
    call.sum_dz[channel] = sums.value[0];
    // Scalar: as above.
    call.sum_dz_xhat[channel] = sums.value[1];
  }
};

template <class Formula, int kChannels>
struct MergedThreads;

// Merges what the threads below each other have: those whose index is the same modulo `across`. The
// result for channel k of thread `column` is element column * kChannels + k. All threads of the
// block must call it.
template <class Formula, int kChannels>
__device__ const typename Formula::Partial* merge_down(
    const typename Formula::Partial (&mine)[kChannels], int across) {
  using Partial = typename Formula::Partial;
  Partial(&shared)[kThreads * kChannels] =
      shared_array<MergedThreads<Formula, kChannels>, Partial, kThreads * kChannels>();
  Partial* own = shared + threadIdx.x * kChannels;
  const int down = threadIdx.x / across;
  __syncthreads();  // The call before may still be reading.
#pragma unroll
  for (int k = 0; k < kChannels; k++) own[k] = mine[k];
  for (int half = kThreads / across / 2; half > 0; half /= 2) {
    __syncthreads();
    if (down >= half) continue;
#pragma unroll
    for (int k = 0; k < kChannels; k++) Formula::merge(own[k], own[half * across * kChannels + k]);
  }
  __syncthreads();
  return shared;
}

struct LastOfTile;

// Writes the results of a tile, if this is its last chunk to be finished. `sums`: of its channels.
template <class Formula, class T, bool kColumns>
__device__ void finish_chunk(const BatchNormParameters& p, const Slice<T, kColumns>& slice,
                             int64_t unit, const SumPair::Partial* sums) {
  using Partial = typename Formula::Partial;
  // A tile's channels side by side, and threads below each other that share its chunks.
  const int width = p.across * Slice<T, kColumns>::kChannels;
  const int column = threadIdx.x % width, down = threadIdx.x / width;
  const int64_t channel = slice.channel() + column;
  const bool exists = column < slice.channels();
  Partial result[1] = {};
  if (down == 0 && exists) {
    // Scalar: once for each channel.
    const T first = static_cast<const T*>(p.call.x)[slice.first() + column];
    result[0] = Formula::of_chunk(sums[column], static_cast<double>(slice.values()),
                                  static_cast<double>(narrow(first)));
  }
  if (p.chunks > 1) {
    const auto partial_of = [&](int64_t chunk) {
      return p.partials + (chunk * p.call.channels + channel) * Formula::kFields;
    };
    if (down == 0 && exists) {
#pragma unroll
      for (int f = 0; f < Formula::kFields; f++) {
        // Scalar: once for each chunk and channel.
        partial_of(unit / p.tiles)[f] = result[0].value[f];
      }
    }
    __syncthreads();  // All channels' partial results before the block's ticket.
    if (!is_last_block<LastOfTile>(p.counters + unit % p.tiles, p.chunks)) return;
    result[0] = {};
    if (exists) {
      for (int64_t chunk = down; chunk < p.chunks; chunk += kThreads / width) {
        Partial of_chunk;
#pragma unroll
        for (int f = 0; f < Formula::kFields; f++)
          of_chunk.value[f] = __ldcg(partial_of(chunk) + f);
        Formula::merge(result[0], of_chunk);
      }
    }
    result[0] = merge_down<Formula, 1>(result, width)[column];
  }
  if (down == 0 && exists) Formula::write(p.call, channel, result[0]);
}

}  // namespace gradkern::cuda
