// Batch normalisation's launchers, one instantiation for each storage type
// (batch_norm_float32.cu, ...).
#pragma once

#include <cstdint>

#include "batch_norm_call.h"

namespace gradkern::cuda {

struct BatchNormParameters;

template <class T>
struct BatchNormLaunchers {
  // Blocks: of each launch.
  static void run(const BatchNormParameters& p, bool held, int64_t blocks, void* stream);

 private:
  template <bool kColumns>
  static void run_layout(const BatchNormParameters& p, bool held, int64_t blocks, void* stream);
  template <class Formula, bool kColumns>
  static void run_values(const BatchNormParameters& p, bool held, int64_t blocks, void* stream);
  template <class Formula, bool kColumns>
  static void run_gradients(BatchNormParameters p, bool held, int64_t blocks, void* stream);
};

}  // namespace gradkern::cuda
