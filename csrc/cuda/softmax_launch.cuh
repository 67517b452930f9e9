// Launches softmax of one storage type: which kernel, and how many blocks.
#pragma once

#include <algorithm>

#include "cuda/launch_plan.h"
#include "cuda/softmax.cuh"
#include "cuda/softmax_launchers.h"

namespace gradkern::cuda {

template <class T>
template <class Formula>
void SoftmaxLaunchers<T>::run_formula(const SoftmaxCall& call, void* stream) {
  constexpr int64_t kSize = Vector<T>::kSize, kHeld = kHeldVectors<Formula> * kSize;
  SoftmaxParameters p{};
  std::copy_n(call.in, 2, p.in);
  p.out = call.out;
  p.outer = call.outer;
  p.size = call.size;
  p.inner = call.inner;
  p.across = threads_across((call.inner + kSize - 1) / kSize);
  const auto run = [&](auto kernel, int64_t units) {
    cuda::launch(kernel, std::min(units, launch_limits().blocks), kThreads, stream, p);
  };
  if (call.inner > 1) {
    const int64_t width = p.across * kSize;
    run(softmax_columns_kernel<Formula, T>, call.outer * ((call.inner + width - 1) / width));
  } else if (call.size <= 32 * kHeld) {
    constexpr int64_t kWarps = kThreads / 32;
    run(softmax_held_rows_kernel<Formula, T, 32>, (call.outer + kWarps - 1) / kWarps);
  } else if (call.size <= kThreads * kHeld) {
    run(softmax_held_rows_kernel<Formula, T, kThreads>, call.outer);
  } else {
    run(softmax_long_rows_kernel<Formula, T>, call.outer);
  }
}

template <class T>
void SoftmaxLaunchers<T>::run(const SoftmaxCall& call, void* stream) {
  switch (call.pass) {
    case SoftmaxPass::kSoftmax:
      return run_formula<formulas::Softmax>(call, stream);
    case SoftmaxPass::kLogSoftmax:
      return run_formula<formulas::LogSoftmax>(call, stream);
    case SoftmaxPass::kSoftmaxBackward:
      return run_formula<formulas::SoftmaxBackward>(call, stream);
    case SoftmaxPass::kLogSoftmaxBackward:
      return run_formula<formulas::LogSoftmaxBackward>(call, stream);
  }
}

}  // namespace gradkern::cuda
