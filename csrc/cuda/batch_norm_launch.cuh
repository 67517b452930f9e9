// Launches batch normalisation of one storage type: which kernels.
#pragma once

#include "cuda/batch_norm.cuh"
#include "cuda/batch_norm_launchers.h"

namespace gradkern::cuda {

template <class T>
template <class Formula, bool kColumns>
void BatchNormLaunchers<T>::run_values(const BatchNormParameters& p, bool held, int64_t blocks,
                                       void* stream) {
  const auto run = [&](auto kernel) { cuda::launch(kernel, blocks, kThreads, stream, p); };
  const bool measures = p.call.output_statistics != nullptr;
  if constexpr (!kColumns) {
    if (held && p.call.pass == BatchNormPass::kForward) {
      if (measures) return run(batch_norm_held_measured_kernel<Formula, T>);
      return run(batch_norm_held_forward_kernel<Formula, T>);
    }
  }
  if (p.call.pass != BatchNormPass::kNormalise) run(batch_norm_moments_kernel<T, kColumns>);
  if (p.call.pass == BatchNormPass::kMoments) return;
  if (measures) return run(batch_norm_measured_kernel<Formula, T, kColumns>);
  run(batch_norm_normalise_kernel<Formula, T, kColumns>);
}

template <class T>
template <class Formula, bool kColumns>
void BatchNormLaunchers<T>::run_gradients(BatchNormParameters p, bool held, int64_t blocks,
                                          void* stream) {
  const auto run = [&](auto kernel) { cuda::launch(kernel, blocks, kThreads, stream, p); };
  if constexpr (!kColumns) {
    if (held) return run(batch_norm_held_backward_kernel<Formula, T>);
  }
  switch (p.call.pass) {
    case BatchNormPass::kSums:
      return run(batch_norm_sums_kernel<Formula, T, kColumns>);
    case BatchNormPass::kBackward:
      run(batch_norm_sums_kernel<Formula, T, kColumns>);
      p.call.count = static_cast<double>(p.call.outer * p.call.inner);
      return run(batch_norm_input_gradient_kernel<Formula, T, kColumns>);
    default:
      return run(batch_norm_input_gradient_kernel<Formula, T, kColumns>);
  }
}

template <class T>
template <bool kColumns>
void BatchNormLaunchers<T>::run_layout(const BatchNormParameters& p, bool held, int64_t blocks,
                                       void* stream) {
  const bool of_values = gives_values(p.call.pass);
  formulas::BatchNormGradients::each([&](int index, auto formula) {
    using Formula = decltype(formula);
    if (index != p.call.activation) return;
    if constexpr (!formulas::kIsOfOutput<Formula>) {
      if (of_values) return run_values<Formula, kColumns>(p, held, blocks, stream);
    }
    if constexpr (formulas::kHasGradients<Formula, T>) {
      run_gradients<Formula, kColumns>(p, held, blocks, stream);
    }
  });
}

template <class T>
void BatchNormLaunchers<T>::run(const BatchNormParameters& p, bool held, int64_t blocks,
                                void* stream) {
  if (p.call.inner == 1) {
    run_layout<true>(p, held, blocks, stream);
  } else {
    run_layout<false>(p, held, blocks, stream);
  }
}

}  // namespace gradkern::cuda
