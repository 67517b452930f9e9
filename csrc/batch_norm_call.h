// Batch normalisation of dense memory: what a device computes (backend.h).
#pragma once

#include <cstdint>

#include "backend.h"

namespace gradkern {

// x: the input, r: what is added after the normalisation (residual), z = normalised(x) + r,
// y = activation(z), g: the gradient of y, dz = g * activation'(z).
enum class BatchNormPass : int32_t {
  kMoments,        // x -> mean, sum_squared_deviations
  kForward,        // x (, r) -> mean, invstd, y; moves the running statistics
  kNormalise,      // x, mean, invstd (, r) -> y
  kSums,           // g, x, mean, invstd (, r) -> sum_dz, sum_dz_xhat
  kBackward,       // the same -> sum_dz, sum_dz_xhat, dx (, dr): mean and invstd are x's own
  kInputGradient,  // the same, sum_dz, sum_dz_xhat, count -> dx (, dr)
};
inline constexpr int kBatchNormPassCount = 6;

// Whether a pass is one of forward's, and not of backward's.
constexpr bool gives_values(BatchNormPass pass) {
  return pass == BatchNormPass::kMoments || pass == BatchNormPass::kForward ||
         pass == BatchNormPass::kNormalise;
}

// Element (o * channels + c) * inner + i, for o < outer and i < inner, belongs to channel c.
// Contiguous images have inner = height * width, channels-last ones and rows of features inner = 1.
// There is at least one element.
struct BatchNormCall {
  BatchNormPass pass;
  DType dtype;  // of x, residual, grad_output, y, grad_input, grad_residual
  int64_t outer, channels, inner;
  double eps;

  // Row of formulas/batch_norm_activations.h, and its parameters. Of an OfOutput the passes of
  // gradients get y for x, and no residual; mean is not looked at.
  int32_t activation;
  double parameters[2];

  // Per channel, in `parameter_dtype`; null: ones and zeros.
  DType parameter_dtype;
  const void* weight;
  const void* bias;

  // Per channel, moved by `momentum` towards the batch's mean and unbiased variance (kForward only;
  // null: not kept).
  DType running_dtype;
  void* running_mean;
  void* running_var;
  double momentum;

  // Per channel, float64: inputs or outputs as the pass says.
  double* mean;
  double* invstd;
  double* sum_squared_deviations;  // kMoments
  double* sum_dz;                  // of dz: the bias's gradient
  double* sum_dz_xhat;             // of dz * (x - mean) * invstd: the weight's gradient

  // kInputGradient: values per channel over all that took part in the statistics; 0: the statistics
  // do not depend on x (evaluation), and dx = dz * weight * invstd.
  double count;

  // Elements, in one memory order. residual and grad_residual may be null; y may be x or residual,
  // grad_input may be grad_output.
  const void* x;
  const void* residual;
  const void* grad_output;
  void* y;
  void* grad_input;
  void* grad_residual;

  // Of y, in the pass that writes it (kForward and kNormalise; null: not measured; then y may not
  // be x or residual): kActivationStatisticCount numbers, then for each channel how many of its
  // elements are active (not saturated).
  double* output_statistics;
};

}  // namespace gradkern
