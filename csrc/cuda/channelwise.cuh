// Activations with a parameter for each channel. Bytes moved: each input read once, the output
// written once, sixteen bytes at a time where rows are aligned; the gradient of the parameters
// comes from the same pass, in float64.
#pragma once

#include "channelwise_call.h"
#include "cuda/activation.cuh"
#include "cuda/channel_merge.cuh"
#include "cuda/channel_slice.cuh"
#include "formulas/channelwise_activations.h"

namespace gradkern::cuda {

struct ChannelwiseParameters {
  ChannelwiseCall call;
  ChannelGrid grid;
};

// The parameters of a thread's channels; its element e belongs to channel e % kChannels of them.
template <class T, bool kColumns, int kChannels>
__device__ __forceinline__ void load_weights(const ChannelwiseCall& call,
                                             const Slice<T, kColumns>& slice,
                                             NarrowOf<T> (&weights)[kChannels]) {
#pragma unroll
  for (int k = 0; k < kChannels; k++) {
    // Scalar: once for each channel of a chunk.
    weights[k] = narrow(static_cast<const T*>(call.weight)[slice.channel_of_element(k)]);
  }
}

// Occupancy: 3 blocks on an SM.
template <class Formula, class T, bool kColumns>
__global__ void __launch_bounds__(kThreads, 3)
    channelwise_kernel(const __grid_constant__ KernelParameter<ChannelwiseParameters> p) {
  constexpr int kChannels = Slice<T, kColumns>::kChannels;
  const T* in[] = {static_cast<const T*>(p.call.in[0])};
  T* out = static_cast<T*>(p.call.out);
  // Without it nvcc 13.0 makes narrow accesses of wide ones for sm_100 (`make sass` tells).
  assume_global(in[0]);
  assume_global(out);
  const bool aligned = are_aligned<T, kColumns>(p.grid, in[0], out);
  for (int64_t unit = blockIdx.x; p.grid.has(unit); unit += gridDim.x) {
    const Slice<T, kColumns> slice(p.grid, unit);
    NarrowOf<T> weights[kChannels];
    load_weights(p.call, slice, weights);
    each_vector<1>(slice, in, aligned, zero<T>(), [&](const Place& place, const Vector<T>(&v)[1]) {
      Vector<T> y;
#pragma unroll
      for (int e = 0; e < Vector<T>::kSize; e++) {
        round_to(Formula::at(narrow(v[0].element[e]), weights[e % kChannels]).value, y.element[e]);
      }
      store_some(out + place.offset, place.count, aligned, y);
    });
  }
}

// Occupancy: 2 blocks on an SM.
template <class Formula, class T, bool kColumns>
__global__ void __launch_bounds__(kThreads, 2)
    channelwise_backward_kernel(const __grid_constant__ KernelParameter<ChannelwiseParameters> p) {
  using Narrow = NarrowOf<T>;
  constexpr int kChannels = Slice<T, kColumns>::kChannels;
  const T* in[] = {static_cast<const T*>(p.call.in[0]), static_cast<const T*>(p.call.in[1])};
  T* out = static_cast<T*>(p.call.out);
  const bool aligned = are_aligned<T, kColumns>(p.grid, in[0], in[1], out);
  for (int64_t unit = blockIdx.x; p.grid.has(unit); unit += gridDim.x) {
    const Slice<T, kColumns> slice(p.grid, unit);
    Narrow weights[kChannels];
    load_weights(p.call, slice, weights);
    Sums<1>::Partial sums[kChannels] = {};
    // A gradient of 0 adds nothing.
    each_vector<1>(slice, in, aligned, zero<T>(), [&](const Place& place, const Vector<T>(&v)[2]) {
      Vector<T> dx;
#pragma unroll
      for (int e = 0; e < Vector<T>::kSize; e++) {
        const Narrow grad = narrow(v[0].element[e]);
        const auto at = Formula::at(narrow(v[1].element[e]), weights[e % kChannels]);
        const Narrow of_input = grad * at.derivative;
        round_to(of_input, dx.element[e]);
        double& sum = sums[e % kChannels].value[0];
        if constexpr (Formula::kIsSum) {
          sum += static_cast<double>(of_input);
        } else {
          // Of two float32 the product is exact in float64.
          sum = formulas::multiply_add(static_cast<double>(grad), static_cast<double>(at.of_weight),
                                       sum);
        }
      }
      store_some(out + place.offset, place.count, aligned, dx);
    });
    const Sums<1>::Partial* merged = merge_down<Sums<1>, kChannels>(sums, p.grid.across);
    finish_chunk<Sums<1>>(
        p.grid, slice, unit, [&](int column) { return merged[column]; },
        [&](int64_t channel, const Sums<1>::Partial& result) {
          T sum;
          round_to(result.value[0], sum);
          // Scalar: once for each channel.
          static_cast<T*>(p.call.grad_weight)[channel] = sum;
        });
  }
}

}  // namespace gradkern::cuda
