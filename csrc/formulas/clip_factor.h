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

// A factor as it is multiplied into elements of type `Scalar`: x * first * second. In float32 a
// factor below 2^-100 (an exploded gradient's) would lose bits to the subnormal range, so it takes
// two steps; for any other `second` is 1, and one step gives the same bits.
template <class Scalar>
struct Scaling {
  Scalar first, second;

  GRADKERN_FORMULA explicit Scaling(double factor) : first(static_cast<Scalar>(factor)), second(1) {
    if (sizeof(Scalar) == sizeof(float) && absolute(factor) < 0x1p-100) {
      first = static_cast<Scalar>(factor * 0x1p100);
      second = static_cast<Scalar>(0x1p-100);
    }
  }

  template <class Value>
  GRADKERN_FORMULA Value operator()(Value x) const {
    return in_one_step(x) * Value(second);
  }
  template <class Value>
  GRADKERN_FORMULA Value in_one_step(Value x) const {
    return x * Value(first);
  }
};

}  // namespace gradkern::formulas
