// The activations' launchers, one instantiation for each storage type (activation_float32.cu, ...).
#pragma once

#include <cstdint>

#include "backend.h"

namespace gradkern::cuda {

struct ActivationParameters;
struct ActivationStatisticsParameters;

template <class T>
struct ActivationLaunchers {
  static void run(int row, ActivationPass pass, const ActivationParameters& p, int64_t blocks,
                  void* stream);
  static void run_statistics(int row, const ActivationStatisticsParameters& p, int64_t blocks,
                             void* stream);

 private:
  template <class Formula>
  static void run_formula(ActivationPass pass, const ActivationParameters& p, int64_t blocks,
                          void* stream);
};

}  // namespace gradkern::cuda
