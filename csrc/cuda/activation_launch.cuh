// Launches the activations of one storage type.
#pragma once

#include "cuda/activation.cuh"
#include "cuda/activation_launchers.h"
#include "cuda/activation_statistics.cuh"
#include "cuda/launch_plan.h"

namespace gradkern::cuda {

template <class Formula, ActivationPass kPass>
inline constexpr bool kHasPass =
    (kPass != ActivationPass::kBackwardOfOutput && kPass != ActivationPass::kSecondOfOutput) ||
    Formula::kSavesOutput;

template <class Formula, ActivationPass kPass, class T>
void launch_pass(const ActivationParameters& p, int64_t blocks, void* stream) {
  if constexpr (kHasPass<Formula, kPass>) {
    cuda::launch(activation_kernel<Formula, kPass, T>, blocks, kThreads, stream, p);
  }
}

template <class T>
template <class Formula>
void ActivationLaunchers<T>::run_formula(ActivationPass pass, const ActivationParameters& p,
                                         int64_t blocks, void* stream) {
  switch (pass) {
    case ActivationPass::kValue:
      return launch_pass<Formula, ActivationPass::kValue, T>(p, blocks, stream);
    case ActivationPass::kDerivative:
      return launch_pass<Formula, ActivationPass::kDerivative, T>(p, blocks, stream);
    case ActivationPass::kValueAndDerivative:
      return launch_pass<Formula, ActivationPass::kValueAndDerivative, T>(p, blocks, stream);
    case ActivationPass::kBackward:
      return launch_pass<Formula, ActivationPass::kBackward, T>(p, blocks, stream);
    case ActivationPass::kBackwardOfOutput:
      return launch_pass<Formula, ActivationPass::kBackwardOfOutput, T>(p, blocks, stream);
    case ActivationPass::kSecond:
      return launch_pass<Formula, ActivationPass::kSecond, T>(p, blocks, stream);
    case ActivationPass::kSecondOfOutput:
      return launch_pass<Formula, ActivationPass::kSecondOfOutput, T>(p, blocks, stream);
  }
}

template <class T>
void ActivationLaunchers<T>::run(int row, ActivationPass pass, const ActivationParameters& p,
                                 int64_t blocks, void* stream) {
  formulas::Activations::each([&](int index, auto formula) {
    if (index == row) run_formula<decltype(formula)>(pass, p, blocks, stream);
  });
}

template <class T>
void ActivationLaunchers<T>::run_statistics(int row, const ActivationStatisticsParameters& p,
                                            int64_t blocks, void* stream) {
  formulas::Activations::each([&](int index, auto formula) {
    if (index != row) return;
    cuda::launch(activation_statistics_kernel<decltype(formula), T>, blocks, kThreads, stream, p);
  });
}

}  // namespace gradkern::cuda
