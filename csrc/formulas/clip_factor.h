// The factor by which a gradient is multiplied, from its norm. All in float64, from unrounded
// norms. A NaN norm gives a NaN factor: the comparisons are written so that NaN falls through to
// the quotient.
#pragma once

#include "formulas/scalar.h"

namespace gradkern::formulas {

// torch.nn.utils.clip_grad_norm_: clamp(max_norm / (total_norm + 1e-6), max=1).
GRADKERN_FORMULA double total_norm_factor(double total_norm, double max_norm) {
  const double factor = max_norm / (total_norm + 1e-6);
  return factor > 1 ? 1.0 : factor;
}

// tf.clip_by_norm, which is Keras' `clipnorm`: x * max_norm / max(norm, max_norm).
GRADKERN_FORMULA double each_norm_factor(double norm, double max_norm) {
  return norm <= max_norm ? 1.0 : max_norm / norm;
}

// Adaptive gradient clipping: Brock, De, Smith, Simonyan, "High-Performance Large-Scale Image
// Recognition Without Normalization", 2021, equation 3, with timm's guard of the quotient.
GRADKERN_FORMULA double weight_norm_factor(double grad_norm, double weight_norm, double clip_factor,
                                           double eps) {
  const double max_norm = (weight_norm < eps ? eps : weight_norm) * clip_factor;
  return grad_norm < max_norm ? 1.0 : max_norm / (grad_norm < 1e-6 ? 1e-6 : grad_norm);
}

}  // namespace gradkern::formulas
