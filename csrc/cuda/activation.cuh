// Activations: one block for each chunk of a tensor. Bytes moved: each input read once, each output
// written once, sixteen bytes at a time.
#pragma once

#include <type_traits>

#include "backend.h"
#include "cuda/elements.cuh"
#include "cuda/platform.h"
#include "formulas/activation_table.h"

namespace gradkern::cuda {

struct ActivationParameters {
  const void* in[2];
  void* out[2];
  int64_t numel;
  int64_t chunk;
  double parameters[formulas::kMaxActivationParameters];
};

template <class V>
__device__ __forceinline__ formulas::Parameters<V> parameters_of(const double* values) {
  formulas::Parameters<V> p{{formulas::constant<V>(values[0]), formulas::constant<V>(values[1])}};
  return p;
}

// The result of one pass for one element: x holds the inputs, y takes the outputs (backend.h).
template <class Formula, ActivationPass kPass, class V>
__device__ __forceinline__ void activate(const V* x, V* y, const double* parameters) {
  using Pass = ActivationPass;
  const auto p = parameters_of<V>(parameters);
  if constexpr (kPass == Pass::kValue) {
    y[0] = Formula::at(x[0], p).value;
  } else if constexpr (kPass == Pass::kDerivative) {
    y[0] = Formula::at(x[0], p).derivative;
  } else if constexpr (kPass == Pass::kValueAndDerivative) {
    const auto at = Formula::at(x[0], p);
    y[0] = at.value;
    y[1] = at.derivative;
  } else if constexpr (kPass == Pass::kBackward) {
    y[0] = x[0] * Formula::at(x[1], p).derivative;
  } else if constexpr (kPass == Pass::kBackwardOfOutput) {
    y[0] = x[0] * Formula::derivative_of_output(x[1], p);
  } else {
    using Dual = formulas::Dual<V>;
    const Dual moving(x[1], formulas::constant<V>(1));
    const auto constants = parameters_of<Dual>(parameters);
    if constexpr (kPass == Pass::kSecond) {
      y[0] = x[0] * Formula::at(moving, constants).derivative.slope;
    } else {
      y[0] = x[0] * Formula::derivative_of_output(moving, constants).slope;
    }
  }
}

// Blocks on an SM that registers are allotted for: second derivatives in float64 need more.
template <class T>
inline constexpr int kActivationBlocks = std::is_same_v<T, double> ? 3 : 4;

// Occupancy: 4 blocks on an SM, 3 for double.
template <class Formula, ActivationPass kPass, class T>
__global__ void __launch_bounds__(kThreads, kActivationBlocks<T>)
    activation_kernel(const __grid_constant__ KernelParameter<ActivationParameters> p) {
  constexpr int kIn = inputs_of(kPass), kOut = outputs_of(kPass);
  const int64_t begin = blockIdx.x * p.chunk;
  const int64_t left = p.numel - begin;
  Operands<T, kIn, kOut> operands;
#pragma unroll
  for (int k = 0; k < kIn; k++) operands.in[k] = static_cast<const T*>(p.in[k]) + begin;
#pragma unroll
  for (int k = 0; k < kOut; k++) operands.out[k] = static_cast<T*>(p.out[k]) + begin;
  map_operands<1>(operands, left < p.chunk ? left : p.chunk,
                  [&](int64_t, const T(&x)[kIn], T(&y)[kOut]) {
                    NarrowOf<T> from[kIn], to[kOut];
#pragma unroll
                    for (int k = 0; k < kIn; k++) from[k] = narrow(x[k]);
                    activate<Formula, kPass>(from, to, p.parameters);
#pragma unroll
                    for (int k = 0; k < kOut; k++) round_to(to[k], y[k]);
                  });
}

}  // namespace gradkern::cuda
