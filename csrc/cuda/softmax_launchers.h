// Softmax's launchers, one instantiation for each storage type (softmax_float32.cu, ...).
#pragma once

#include <cstdint>

#include "softmax_call.h"

namespace gradkern::cuda {

template <class T>
struct SoftmaxLaunchers {
  static void run(const SoftmaxCall& call, void* stream);

 private:
  template <class Formula>
  static void run_formula(const SoftmaxCall& call, void* stream);
};

}  // namespace gradkern::cuda
