// What batch normalisation's reductions come to for each channel, and where that is written.
#pragma once

#include "batch_norm_call.h"
#include "cuda/channel_merge.cuh"
#include "formulas/batch_norm.h"
#include "formulas/norms.h"

namespace gradkern::cuda {

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

  static __device__ Partial of_chunk(const Sums<2>::Partial& sums, double count, double shift) {
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
struct GradientSums : Sums<2> {
  static __device__ void write(const BatchNormCall& call, int64_t channel, const Partial& sums) {
    // Scalar: once for each channel.
    call.sum_dz[channel] = sums.value[0];
    // Scalar: as above.
    call.sum_dz_xhat[channel] = sums.value[1];
  }
};

}  // namespace gradkern::cuda
