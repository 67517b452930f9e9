// Reductions for each channel: a block's threads are merged for each channel of its tile, and the
// last block of a tile merges the tile's chunks. Every merge runs in an order given by indices.
#pragma once

#include "cuda/channel_slice.cuh"
#include "cuda/last_block.cuh"
#include "formulas/norms.h"

namespace gradkern::cuda {

// Sums in float64.
template <int kCount>
struct Sums {
  static constexpr int kFields = kCount;
  using Partial = formulas::Partial<kFields>;

  static __device__ __forceinline__ void merge(Partial& into, const Partial& other) {
#pragma unroll
    for (int f = 0; f < kFields; f++) into.value[f] += other.value[f];
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

// Merges a tile's chunks if this is the last one of them to be finished, and calls write(channel,
// result) for its channels. of_chunk(column): what the chunk has of the tile's channel `column`.
template <class Formula, class T, bool kColumns, class OfChunk, class Write>
__device__ void finish_chunk(const ChannelGrid& grid, const Slice<T, kColumns>& slice, int64_t unit,
                             OfChunk of_chunk, Write write) {
  using Partial = typename Formula::Partial;
  // A tile's channels side by side, and threads below each other that share its chunks.
  const int width = grid.across * Slice<T, kColumns>::kChannels;
  const int column = threadIdx.x % width, down = threadIdx.x / width;
  const int64_t channel = slice.channel() + column;
  const bool exists = column < slice.channels();
  Partial result[1] = {};
  if (down == 0 && exists) result[0] = of_chunk(column);
  if (grid.chunks > 1) {
    const auto partial_of = [&](int64_t chunk) {
      return grid.partials + (chunk * grid.sizes.channels + channel) * Formula::kFields;
    };
    if (down == 0 && exists) {
#pragma unroll
      for (int f = 0; f < Formula::kFields; f++) {
        // Scalar: once for each chunk and channel.
        partial_of(unit / grid.tiles)[f] = result[0].value[f];
      }
    }
    __syncthreads();  // All channels' partial results before the block's ticket.
    if (!is_last_block<LastOfTile>(grid.counters + unit % grid.tiles, grid.chunks)) return;
    result[0] = {};
    if (exists) {
      for (int64_t chunk = down; chunk < grid.chunks; chunk += kThreads / width) {
        Partial of_chunk;
#pragma unroll
        for (int f = 0; f < Formula::kFields; f++)
          of_chunk.value[f] = __ldcg(partial_of(chunk) + f);
        Formula::merge(result[0], of_chunk);
      }
    }
    result[0] = merge_down<Formula, 1>(result, width)[column];
  }
  if (down == 0 && exists) write(channel, result[0]);
}

}  // namespace gradkern::cuda
