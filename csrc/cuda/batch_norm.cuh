// Batch normalisation. Bytes moved: a reduction reads each input once, what follows it reads them
// once again and writes each output once; where a block holds a channel, inputs are read once.
//
// Where the output is measured, that happens in the pass that writes it (batch_norm_output.cuh).
//
// Sums are float64: of differences from a value of the chunk, which are exact for float32 storage
// within a factor of 2^29 of each other, and of exact products.
#pragma once

#include "cuda/activation.cuh"
#include "cuda/batch_norm_merge.cuh"
#include "cuda/batch_norm_output.cuh"
#include "cuda/batch_norm_plan.h"
#include "cuda/channel_slice.cuh"
#include "formulas/batch_norm.h"
#include "formulas/batch_norm_activations.h"

namespace gradkern::cuda {

// ---- a channel's constants

__device__ __forceinline__ double parameter_of(const BatchNormCall& call, const void* parameters,
                                               int64_t channel, double otherwise) {
  if (parameters == nullptr) return otherwise;
  double value = 0;
  visit_real_storage(static_cast<int32_t>(call.parameter_dtype), [&](auto storage) {
    using T = typename decltype(storage)::type;
    // Scalar: once for each channel.
    value = static_cast<double>(narrow(static_cast<const T*>(parameters)[channel]));
  });
  return value;
}

template <class V>
__device__ __forceinline__ formulas::Normalisation<V> normalisation_of(const BatchNormCall& call,
                                                                       int64_t channel, double mean,
                                                                       double invstd) {
  return formulas::Normalisation<V>(mean, invstd, parameter_of(call, call.weight, channel, 1),
                                    parameter_of(call, call.bias, channel, 0));
}

template <class Formula, class V>
__device__ __forceinline__ formulas::Normalisation<V> normalisation_of(const BatchNormCall& call,
                                                                       int64_t channel) {
  if constexpr (formulas::kIsOfOutput<Formula>) {
    return formulas::Normalisation<V>::of_output(parameter_of(call, call.weight, channel, 1),
                                                 parameter_of(call, call.bias, channel, 0));
  } else {
    // Scalar: once for each channel.
    const double mean = call.mean[channel], invstd = call.invstd[channel];
    return normalisation_of<V>(call, channel, mean, invstd);
  }
}

template <class V>
__device__ __forceinline__ formulas::InputGradient<V> input_gradient_of(
    const BatchNormCall& call, int64_t channel, double sum_dz, double sum_dz_xhat, double count) {
  // Scalar: once for each channel.
  const double invstd = call.invstd[channel];
  return formulas::InputGradient<V>(parameter_of(call, call.weight, channel, 1), invstd, sum_dz,
                                    sum_dz_xhat, count);
}

// ---- one vector; its element e belongs to channel e % kChannels of the thread's

// Sums of x - shift and of its square.
template <class T, int kChannels>
class ShiftedSums {
 public:
  Sums<2>::Partial sums[kChannels] = {};

  // Shifts by the chunk's first values. `pad`: what adds nothing.
  template <bool kColumns>
  __device__ ShiftedSums(const T* x, const Slice<T, kColumns>& slice) {
    const int64_t from_first = slice.first() - slice.channel();
#pragma unroll
    for (int k = 0; k < kChannels; k++) {
      // Scalar: once for each chunk.
      pad_ = x[kColumns ? from_first + slice.channel_of_element(k) : slice.first()];
      shift_[k] = static_cast<double>(narrow(pad_));
    }
  }

  __device__ T pad() const { return pad_; }
  __device__ double shift() const { return shift_[0]; }

  __device__ __forceinline__ void add(const Vector<T>& x) {
#pragma unroll
    for (int e = 0; e < Vector<T>::kSize; e++) {
      double (&sum)[2] = sums[e % kChannels].value;
      const double difference = static_cast<double>(narrow(x.element[e])) - shift_[e % kChannels];
      sum[0] += difference;
      sum[1] = formulas::multiply_add(difference, difference, sum[1]);
    }
  }

 private:
  T pad_;
  double shift_[kChannels];
};

// The gradient of z, and what x is normalised.
template <class V>
struct GradientAt {
  V dz, xhat;
};

template <class Formula, class V>
__device__ __forceinline__ GradientAt<V> gradient_at(const formulas::Normalisation<V>& channel,
                                                     const formulas::Parameters<V>& parameters,
                                                     V grad, V x, V residual) {
  const auto at = formulas::GradientElement<Formula>::at(channel, parameters, x, true, residual);
  return {grad * at.derivative, at.xhat};
}

// Of the inputs grad_output, x and residual. Calls visit(element, channel, gradient).
template <class Formula, class T, int kChannels, class Visit>
__device__ __forceinline__ void each_gradient(
    const formulas::Normalisation<NarrowOf<T>> (&channels)[kChannels],
    const formulas::Parameters<NarrowOf<T>>& parameters, const Vector<T> (&v)[3], Visit visit) {
#pragma unroll
  for (int e = 0; e < Vector<T>::kSize; e++) {
    visit(e, e % kChannels,
          gradient_at<Formula>(channels[e % kChannels], parameters, narrow(v[0].element[e]),
                               narrow(v[1].element[e]), narrow(v[2].element[e])));
  }
}

template <class V>
__device__ __forceinline__ void add_gradient(Sums<2>::Partial& sums, const GradientAt<V>& at) {
  const double dz = static_cast<double>(at.dz);
  sums.value[0] += dz;
  sums.value[1] = formulas::multiply_add(dz, static_cast<double>(at.xhat), sums.value[1]);
}

// Writes dx and dr of one vector.
template <class Formula, class T, int kChannels>
__device__ __forceinline__ void write_input_gradient(
    const BatchNormCall& call, const Place& place, bool aligned,
    const formulas::Normalisation<NarrowOf<T>> (&channels)[kChannels],
    const formulas::InputGradient<NarrowOf<T>> (&gradients)[kChannels],
    const formulas::Parameters<NarrowOf<T>>& parameters, const Vector<T> (&v)[3]) {
  Vector<T> dx, dr;
  each_gradient<Formula, T>(channels, parameters, v,
                            [&](int e, int k, const GradientAt<NarrowOf<T>>& at) {
                              round_to(gradients[k].dx(at.dz, at.xhat), dx.element[e]);
                              round_to(at.dz, dr.element[e]);
                            });
  store_some(static_cast<T*>(call.grad_input) + place.offset, place.count, aligned, dx);
  if (call.grad_residual == nullptr) return;
  store_some(static_cast<T*>(call.grad_residual) + place.offset, place.count, aligned, dr);
}

// ---- kernels

// Eight channels' constants fill half of the registers: one block, with twice the vectors in
// flight.
template <class T, bool kColumns>
inline constexpr int kBatchNormBlocks = kColumns && Vector<T>::kSize == 8 ? 1 : 2;
template <class T, bool kColumns>
inline constexpr int kGradientsAtOnce = 2 / kBatchNormBlocks<T, kColumns>;

// Occupancy: 2 blocks on an SM.
template <class T, bool kColumns>
__global__ void __launch_bounds__(kThreads, 2)
    batch_norm_moments_kernel(const __grid_constant__ KernelParameter<BatchNormParameters> p) {
  constexpr int kChannels = Slice<T, kColumns>::kChannels;
  const T* in[] = {static_cast<const T*>(p.call.x)};
  const bool aligned = are_aligned<T, kColumns>(p.grid, p.call.x);
  for (int64_t unit = blockIdx.x; p.grid.has(unit); unit += gridDim.x) {
    const Slice<T, kColumns> slice(p.grid, unit);
    ShiftedSums<T, kChannels> sums(in[0], slice);
    each_vector<kInFlight>(slice, in, aligned, sums.pad(),
                           [&](const Place&, const Vector<T>(&v)[1]) { sums.add(v[0]); });
    const Sums<2>::Partial* merged = merge_down<Sums<2>, kChannels>(sums.sums, p.grid.across);
    finish_chunk<MomentsOfChannel>(
        p.grid, slice, unit,
        [&](int column) {
          // Scalar: once for each channel.
          const T first = in[0][slice.first() + column];
          return MomentsOfChannel::of_chunk(merged[column], static_cast<double>(slice.values()),
                                            static_cast<double>(narrow(first)));
        },
        [&](int64_t channel, const MomentsOfChannel::Partial& result) {
          MomentsOfChannel::write(p.call, channel, result);
        });
  }
}

// Writes the output of all units. Meter: Unmeasured or Measured.
template <class Meter, class Formula, class T, bool kColumns>
__device__ __forceinline__ void normalise_units(const BatchNormParameters& p) {
  using Narrow = NarrowOf<T>;
  constexpr int kChannels = Slice<T, kColumns>::kChannels;
  const BatchNormCall& call = p.call;
  const T* in[] = {static_cast<const T*>(call.x), static_cast<const T*>(call.residual)};
  const bool aligned = are_aligned<T, kColumns>(p.grid, call.x, call.residual, call.y);
  const auto parameters = parameters_of<Narrow>(call.parameters);
  for (int64_t unit = blockIdx.x; p.grid.has(unit); unit += gridDim.x) {
    const Slice<T, kColumns> slice(p.grid, unit);
    formulas::Normalisation<Narrow> channels[kChannels];
#pragma unroll
    for (int k = 0; k < kChannels; k++) {
      channels[k] = normalisation_of<Formula, Narrow>(call, slice.channel_of_element(k));
    }
    Meter::template write<Formula>(p, slice, unit, channels, parameters, aligned, [&](auto visit) {
      each_vector<1, 1>(
          slice, in, aligned, zero<T>(),
          [&](const Place& place, const Vector<T>(&v)[2]) { visit(place, v[0], v[1]); });
    });
  }
  Meter::finish(p);
}

// Occupancy: 2 blocks on an SM.
template <class Formula, class T, bool kColumns>
__global__ void __launch_bounds__(kThreads, 2)
    batch_norm_normalise_kernel(const __grid_constant__ KernelParameter<BatchNormParameters> p) {
  normalise_units<Unmeasured, Formula, T, kColumns>(p);
}

// Occupancy: 2 blocks on an SM, 1 for __nv_bfloat16, 1 for __half.
template <class Formula, class T, bool kColumns>
__global__ void __launch_bounds__(kThreads, kBatchNormBlocks<T, kColumns>)
    batch_norm_measured_kernel(const __grid_constant__ KernelParameter<BatchNormParameters> p) {
  normalise_units<Measured, Formula, T, kColumns>(p);
}

// Occupancy: 2 blocks on an SM, 1 for __nv_bfloat16, 1 for __half.
template <class Formula, class T, bool kColumns>
__global__ void __launch_bounds__(kThreads, kBatchNormBlocks<T, kColumns>)
    batch_norm_sums_kernel(const __grid_constant__ KernelParameter<BatchNormParameters> p) {
  using Narrow = NarrowOf<T>;
  constexpr int kChannels = Slice<T, kColumns>::kChannels;
  const BatchNormCall& call = p.call;
  const T* in[] = {static_cast<const T*>(call.grad_output), static_cast<const T*>(call.x),
                   static_cast<const T*>(call.residual)};
  const bool aligned = are_aligned<T, kColumns>(p.grid, call.grad_output, call.x, call.residual);
  const auto parameters = parameters_of<Narrow>(call.parameters);
  for (int64_t unit = blockIdx.x; p.grid.has(unit); unit += gridDim.x) {
    const Slice<T, kColumns> slice(p.grid, unit);
    formulas::Normalisation<Narrow> channels[kChannels];
#pragma unroll
    for (int k = 0; k < kChannels; k++) {
      channels[k] = normalisation_of<Formula, Narrow>(call, slice.channel_of_element(k));
    }
    Sums<2>::Partial sums[kChannels] = {};
    // A gradient of 0 adds nothing.
    each_vector<kGradientsAtOnce<T, kColumns>, 1>(
        slice, in, aligned, zero<T>(), [&](const Place&, const Vector<T>(&v)[3]) {
          each_gradient<Formula, T>(
              channels, parameters, v,
              [&](int, int k, const GradientAt<Narrow>& at) { add_gradient(sums[k], at); });
        });
    const Sums<2>::Partial* merged = merge_down<Sums<2>, kChannels>(sums, p.grid.across);
    finish_chunk<GradientSums>(
        p.grid, slice, unit, [&](int column) { return merged[column]; },
        [&](int64_t channel, const GradientSums::Partial& result) {
          GradientSums::write(p.call, channel, result);
        });
  }
}

// Occupancy: 2 blocks on an SM, 1 for __nv_bfloat16, 1 for __half.
template <class Formula, class T, bool kColumns>
__global__ void __launch_bounds__(kThreads, kBatchNormBlocks<T, kColumns>)
    batch_norm_input_gradient_kernel(
        const __grid_constant__ KernelParameter<BatchNormParameters> p) {
  using Narrow = NarrowOf<T>;
  constexpr int kChannels = Slice<T, kColumns>::kChannels;
  const BatchNormCall& call = p.call;
  const T* in[] = {static_cast<const T*>(call.grad_output), static_cast<const T*>(call.x),
                   static_cast<const T*>(call.residual)};
  const bool aligned = are_aligned<T, kColumns>(p.grid, call.grad_output, call.x, call.residual,
                                                call.grad_input, call.grad_residual);
  const auto parameters = parameters_of<Narrow>(call.parameters);
  for (int64_t unit = blockIdx.x; p.grid.has(unit); unit += gridDim.x) {
    const Slice<T, kColumns> slice(p.grid, unit);
    formulas::Normalisation<Narrow> channels[kChannels];
    formulas::InputGradient<Narrow> gradients[kChannels];
#pragma unroll
    for (int k = 0; k < kChannels; k++) {
      const int64_t channel = slice.channel_of_element(k);
      channels[k] = normalisation_of<Formula, Narrow>(call, channel);
      const bool constant = call.count == 0;
      // Scalar: once for each channel.
      const double sum_dz = constant ? 0 : call.sum_dz[channel];
      // Scalar: as above.
      const double sum_dz_xhat = constant ? 0 : call.sum_dz_xhat[channel];
      gradients[k] = input_gradient_of<Narrow>(call, channel, sum_dz, sum_dz_xhat, call.count);
    }
    each_vector<kGradientsAtOnce<T, kColumns>, 1>(
        slice, in, aligned, zero<T>(), [&](const Place& place, const Vector<T>(&v)[3]) {
          write_input_gradient<Formula>(call, place, aligned, channels, gradients, parameters, v);
        });
  }
}

// ---- kernels of which a block holds a channel: no thread reads what another one holds

struct HeldElements;

// Reads each channel once, and writes its output. Meter: as above.
template <class Meter, class Formula, class T>
__device__ __forceinline__ void normalise_held(const BatchNormParameters& p) {
  using Narrow = NarrowOf<T>;
  const BatchNormCall& call = p.call;
  Vector<T>(&held)[kHeldVectors] = shared_array<HeldElements, Vector<T>, kHeldVectors>();
  const T* x[] = {static_cast<const T*>(call.x)};
  const T* residual = static_cast<const T*>(call.residual);
  const bool aligned = are_aligned<T, false>(p.grid, call.x, call.residual, call.y);
  const auto parameters = parameters_of<Narrow>(call.parameters);
  for (int64_t channel = blockIdx.x; channel < p.grid.tiles; channel += gridDim.x) {
    const Slice<T, false> slice(p.grid, channel);
    ShiftedSums<T, 1> sums(x[0], slice);
    each_vector<kInFlight>(slice, x, aligned, sums.pad(),
                           [&](const Place& place, const Vector<T>(&v)[1]) {
                             held[place.index] = v[0];
                             sums.add(v[0]);
                           });
    const auto result = MomentsOfChannel::of_chunk(
        merge_down<Sums<2>, 1>(sums.sums, 1)[0], static_cast<double>(slice.values()), sums.shift());
    if (threadIdx.x == 0) MomentsOfChannel::write(call, channel, result);
    const formulas::Moments moments = MomentsOfChannel::moments(result);
    const formulas::Normalisation<Narrow> channels[] = {normalisation_of<Narrow>(
        call, channel, moments.mean, formulas::invstd_of(moments.variance(), call.eps))};
    Meter::template write<Formula>(
        p, slice, channel, channels, parameters, aligned, [&](auto visit) {
          Slice<T, false> left = slice;
#pragma unroll 1
          for (; left.has(1); left.advance()) {
            const Place place = left.place();
            const Vector<T> r = residual == nullptr ? load_some<T>(nullptr, 0, aligned, zero<T>())
                                                    : load_some(residual + place.offset,
                                                                place.count, aligned, zero<T>());
            visit(place, held[place.index], r);
          }
        });
  }
  Meter::finish(p);
}

// Occupancy: 2 blocks on an SM.
template <class Formula, class T>
__global__ void __launch_bounds__(kThreads, 2)
    batch_norm_held_forward_kernel(const __grid_constant__ KernelParameter<BatchNormParameters> p) {
  normalise_held<Unmeasured, Formula, T>(p);
}

// Occupancy: 2 blocks on an SM.
template <class Formula, class T>
__global__ void __launch_bounds__(kThreads, 2) batch_norm_held_measured_kernel(
    const __grid_constant__ KernelParameter<BatchNormParameters> p) {
  normalise_held<Measured, Formula, T>(p);
}

// Occupancy: 2 blocks on an SM.
template <class Formula, class T>
__global__ void __launch_bounds__(kThreads, 2) batch_norm_held_backward_kernel(
    const __grid_constant__ KernelParameter<BatchNormParameters> p) {
  using Narrow = NarrowOf<T>;
  const BatchNormCall& call = p.call;
  Vector<T>(&held)[kHeldVectors] = shared_array<HeldElements, Vector<T>, kHeldVectors>();
  const T* in[] = {static_cast<const T*>(call.grad_output), static_cast<const T*>(call.x),
                   static_cast<const T*>(call.residual)};
  const bool has_residual = call.residual != nullptr;
  const bool aligned = are_aligned<T, false>(p.grid, call.grad_output, call.x, call.residual,
                                             call.grad_input, call.grad_residual);
  const auto parameters = parameters_of<Narrow>(call.parameters);
  for (int64_t channel = blockIdx.x; channel < p.grid.tiles; channel += gridDim.x) {
    Slice<T, false> slice(p.grid, channel);
    const formulas::Normalisation<Narrow> channels[] = {
        normalisation_of<Formula, Narrow>(call, channel)};
    Sums<2>::Partial sums[1] = {};
    each_vector<1, 1>(
        slice, in, aligned, zero<T>(), [&](const Place& place, const Vector<T>(&v)[3]) {
          held[place.index] = v[0];
          held[p.grid.chunk + place.index] = v[1];
          if (has_residual) held[2 * p.grid.chunk + place.index] = v[2];
          each_gradient<Formula, T>(
              channels, parameters, v,
              [&](int, int k, const GradientAt<Narrow>& at) { add_gradient(sums[k], at); });
        });
    const Sums<2>::Partial of_channel = merge_down<Sums<2>, 1>(sums, 1)[0];
    if (threadIdx.x == 0) GradientSums::write(call, channel, of_channel);
    const formulas::InputGradient<Narrow> gradients[] = {
        input_gradient_of<Narrow>(call, channel, of_channel.value[0], of_channel.value[1],
                                  static_cast<double>(slice.values()))};
#pragma unroll 1
    for (; slice.has(1); slice.advance()) {
      const Place place = slice.place();
      Vector<T> v[3] = {held[place.index], held[p.grid.chunk + place.index],
                        load_some<T>(nullptr, 0, aligned, zero<T>())};
      if (has_residual) v[2] = held[2 * p.grid.chunk + place.index];
      write_input_gradient<Formula>(call, place, aligned, channels, gradients, parameters, v);
    }
  }
}

}  // namespace gradkern::cuda
