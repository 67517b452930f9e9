// How batch normalisation's output is written: unmeasured, or with the statistics of what is
// written.
//
// Each unit has a partial result, and the last block merges them in their order. Active elements
// are added up in device memory as float64: whole numbers, so that the order of the blocks does not
// show.
#pragma once

#include "batch_norm_call.h"
#include "cuda/block_merge.cuh"
#include "cuda/channel_merge.cuh"
#include "cuda/channel_slice.cuh"
#include "cuda/last_block.cuh"
#include "formulas/activation_statistics.h"
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

struct OutputIsFinite;
struct LastOfOutputs;

struct Measured {
  using Statistics = formulas::ActivationStatistics;
  using Partial = formulas::Partial<Statistics::kFields>;

  template <class Formula, class T, bool kColumns, int kChannels, class Walk>
  static __device__ __forceinline__ void write(
      const BatchNormParameters& p, const Slice<T, kColumns>& slice, int64_t unit,
      const formulas::Normalisation<NarrowOf<T>> (&channels)[kChannels],
      const formulas::Parameters<NarrowOf<T>>& parameters, bool aligned, Walk walk) {
    using Narrow = NarrowOf<T>;
    // Calls add(channel, measured) for the vector's elements that exist. What is stored is what is
    // measured.
    const auto measure = [&](const Place& place, const Vector<T>& x, const Vector<T>& residual,
                             Vector<T>& y, auto add) {
      each_output<Formula>(channels, parameters, x, residual, [&](int e, int k, const auto& at) {
        round_to(at.value, y.element[e]);
        if (e >= place.count) return;
        const Narrow value = narrow(y.element[e]);
        add(k, Statistics::Measured<Narrow, double>{
                   value, Formula::saturated(at, parameters) ? Narrow(1) : Narrow(0),
                   static_cast<double>(value),
                   static_cast<double>(formulas::absolute(at.derivative))});
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
    Partial partial = block_merge<Statistics>(formulas::partial_of<Statistics>(lanes), 0);
    if (!broadcast<OutputIsFinite>(Statistics::saw_only_finite(partial))) {
      Statistics::Lanes<Narrow, double> exact;
      walk([&](const Place& place, const Vector<T>& x, const Vector<T>& residual) {
        Vector<T> y;
        measure(place, x, residual, y,
                [&](int, const auto& measured) { exact.add_finite(measured); });
      });
      partial = block_merge<Statistics>(formulas::partial_of<Statistics>(exact), 0);
    }
    if (threadIdx.x != 0) return;
    double* fields = p.output_partials + unit * Statistics::kFields;
    // Scalar: once for each unit.
    for (int f = 0; f < Statistics::kFields; f++) fields[f] = partial.value[f];
  }

  static __device__ void finish(const BatchNormParameters& p) {
    if (!is_last_block<LastOfOutputs>(p.output_counter, gridDim.x)) return;
    Partial partial = Statistics::empty(0);
    for (int64_t unit = threadIdx.x; p.grid.has(unit); unit += kThreads) {
      Partial of_unit;
      const double* fields = p.output_partials + unit * Statistics::kFields;
      for (int f = 0; f < Statistics::kFields; f++) of_unit.value[f] = __ldcg(fields + f);
      Statistics::merge(partial, of_unit, 0);
    }
    partial = block_merge<Statistics>(partial, 0);
    if (threadIdx.x != 0) return;
    double* statistics = p.call.output_statistics;
    // Scalar: once.
    statistics[kActivationCount] =
        static_cast<double>(p.call.outer * p.call.channels * p.call.inner);
    for (int f = 0; f < Statistics::kFields; f++) {
      // Scalar: as above.
      statistics[kActivationSum + f] = partial.value[f];
    }
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
