// How batch normalisation's output is written: unmeasured, or with the statistics of what is
// written.
//
// Each unit has a partial result, and the last block merges them in their order. Active elements
// are added up in device memory as float64: whole numbers, so that the order of the blocks does not
// show.
#pragma once

#include "batch_norm_call.h"
#include "cuda/channel_merge.cuh"
#include "cuda/channel_slice.cuh"
#include "cuda/last_block.cuh"
#include "cuda/measured_output.cuh"
#include "formulas/batch_norm.h"
#include "formulas/batch_norm_activations.h"

namespace gradkern::cuda {

struct BatchNormParameters {
  BatchNormCall call;
  ChannelGrid grid;
  double* output_partials;   // of each unit's output, where it is measured
  unsigned* output_counter;  // zero before the launch
};

// Calls visit(element, channel, value and derivative) for a vector's elements; element e belongs to
// channel e % kChannels of the thread's.
template <class Formula, class T, int kChannels, class Visit>
__device__ __forceinline__ void each_output(
    const formulas::Normalisation<NarrowOf<T>> (&channels)[kChannels],
    const formulas::Parameters<NarrowOf<T>>& parameters, const Vector<T>& x,
    const Vector<T>& residual, Visit visit) {
#pragma unroll
  for (int e = 0; e < Vector<T>::kSize; e++) {
    const auto& channel = channels[e % kChannels];
    const auto z = channel.z(channel.xhat(narrow(x.element[e]))) + narrow(residual.element[e]);
    visit(e, e % kChannels, Formula::at(z, parameters));
  }
}

// Both have
//   write(p, slice, unit, channels, parameters, aligned, walk)  writes a unit's output. walk(visit)
//                       calls visit(place, x, residual) for the thread's vectors, as often as asked
//   finish(p)           after all units. All threads of the block must call it.
struct Unmeasured {
  template <class Formula, class T, bool kColumns, int kChannels, class Walk>
  static __device__ __forceinline__ void write(
      const BatchNormParameters& p, const Slice<T, kColumns>&, int64_t,
      const formulas::Normalisation<NarrowOf<T>> (&channels)[kChannels],
      const formulas::Parameters<NarrowOf<T>>& parameters, bool aligned, Walk walk) {
    walk([&](const Place& place, const Vector<T>& x, const Vector<T>& residual) {
      Vector<T> y;
      each_output<Formula>(channels, parameters, x, residual,
                           [&](int e, int, const auto& at) { round_to(at.value, y.element[e]); });
      store_some(static_cast<T*>(p.call.y) + place.offset, place.count, aligned, y);
    });
  }

  static __device__ void finish(const BatchNormParameters&) {}
};

struct LastOfOutputs;

struct Measured {
  using Statistics = formulas::ActivationStatistics;

  template <class Formula, class T, bool kColumns, int kChannels, class Walk>
  static __device__ __forceinline__ void write(
      const BatchNormParameters& p, const Slice<T, kColumns>& slice, int64_t unit,
      const formulas::Normalisation<NarrowOf<T>> (&channels)[kChannels],
      const formulas::Parameters<NarrowOf<T>>& parameters, bool aligned, Walk walk) {
    using Narrow = NarrowOf<T>;
    // Calls add(channel, measured) for the vector's elements that exist.
    const auto measure = [&](const Place& place, const Vector<T>& x, const Vector<T>& residual,
                             Vector<T>& y, auto add) {
      each_output<Formula>(channels, parameters, x, residual, [&](int e, int k, const auto& at) {
        const auto measured = store_and_measure<Formula>(at, parameters, y.element[e]);
        if (e < place.count) add(k, measured);
      });
    };
    Statistics::Lanes<Narrow, double> lanes;
    Sums<1>::Partial active[kChannels] = {};
    walk([&](const Place& place, const Vector<T>& x, const Vector<T>& residual) {
      Vector<T> y;
      measure(place, x, residual, y, [&](int k, const auto& measured) {
        lanes.add(measured);
        if (measured.saturated == Narrow(0)) active[k].value[0] += 1;
      });
      store_some(static_cast<T*>(p.call.y) + place.offset, place.count, aligned, y);
    });
    count_active(p, slice, active);
    const auto partial = merge_measured<T>(lanes, [&](auto add) {
      walk([&](const Place& place, const Vector<T>& x, const Vector<T>& residual) {
        Vector<T> y;
        measure(place, x, residual, y, [&](int, const auto& measured) { add(measured); });
      });
    });
    if (threadIdx.x == 0) write_partial(p.output_partials, unit, partial);
  }

  static __device__ void finish(const BatchNormParameters& p) {
    if (!is_last_block<LastOfOutputs>(p.output_counter, gridDim.x)) return;
    const auto partial =
        merge_partials<Statistics>(p.output_partials, p.grid.tiles * p.grid.chunks, 0);
    if (threadIdx.x != 0) return;
    const BatchNormCall& call = p.call;
    write_statistics(call.output_statistics, call.outer * call.channels * call.inner, partial);
  }

 private:
  template <class T, bool kColumns, int kChannels>
  static __device__ void count_active(const BatchNormParameters& p, const Slice<T, kColumns>& slice,
                                      const Sums<1>::Partial (&active)[kChannels]) {
    const Sums<1>::Partial* merged = merge_down<Sums<1>, kChannels>(active, p.grid.across);
    double* counts = p.call.output_statistics + kActivationStatisticCount + slice.channel();
    for (int64_t column = threadIdx.x; column < slice.channels(); column += kThreads) {
      atomicAdd(counts + column, merged[column].value[0]);
    }
  }
};

}  // namespace gradkern::cuda
