// Batch normalisation (Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167).
//
// The mean is kept in float64 and subtracted in two float32 parts: with |mean| >> std a float32
// mean alone would put a systematic error of up to half its unit in the last place into every
// element.
#pragma once

#include "formulas/activations.h"
#include "formulas/scalar.h"

namespace gradkern::formulas {

// Mean and sum of squared deviations of `count` values.
struct Moments {
  double count = 0, mean = 0, squares = 0;

  // Of values of which `sum` and `sum_squares` are those of x - shift.
  GRADKERN_FORMULA static Moments of_shifted(double count, double shift, double sum,
                                             double sum_squares) {
    const double offset = sum / count;
    const double squares = sum_squares - sum * offset;
    // Rounding may leave a sum of squares below 0; NaN stays NaN.
    return {count, shift + offset, squares < 0 ? 0 : squares};
  }

  // Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample
  // variances", equation 2.1.
  GRADKERN_FORMULA void merge(const Moments& other) {
    if (other.count == 0) return;
    if (count == 0) {
      *this = other;
      return;
    }
    const double total = count + other.count, delta = other.mean - mean;
    mean += delta * (other.count / total);
    squares += other.squares + delta * delta * (count * (other.count / total));
    count = total;
  }

  GRADKERN_FORMULA double variance() const { return squares / count; }
  // What running_var collects.
  GRADKERN_FORMULA double unbiased_variance() const { return squares / (count - 1); }
};

GRADKERN_FORMULA double invstd_of(double variance, double eps) {
  return 1 / ::sqrt(variance + eps);
}

// A running statistic, moved by `momentum` towards that of a batch.
GRADKERN_FORMULA double moved(double running, double momentum, double of_batch) {
  return (1 - momentum) * running + momentum * of_batch;
}

// A channel's constants, as values of type V (float32 for all storage but float64).
template <class V>
struct Normalisation {
  V mean_high, mean_low, invstd, weight, bias;

  Normalisation() = default;
  GRADKERN_FORMULA Normalisation(double mean, double invstd_, double weight_, double bias_)
      : mean_high(constant<V>(mean)),
        mean_low(constant<V>(mean - static_cast<double>(static_cast<scalar_of<V>>(mean)))),
        invstd(constant<V>(invstd_)),
        weight(constant<V>(weight_)),
        bias(constant<V>(bias_)) {}

  // With z in the place of x: the affine part undone.
  GRADKERN_FORMULA static Normalisation of_output(double weight, double bias) {
    return Normalisation(bias, 1 / weight, weight, bias);
  }

  GRADKERN_FORMULA V xhat(V x) const { return ((x - mean_high) - mean_low) * invstd; }
  GRADKERN_FORMULA V z(V xhat) const { return multiply_add(xhat, weight, bias); }
};

// A channel's constants of the gradient of x:
//   dx = weight * invstd * (dz - sum_dz / count - xhat * sum_dz_xhat / count)
// and dx = weight * invstd * dz where the statistics are constants (count = 0).
template <class V>
struct InputGradient {
  V scale, mean_dz, mean_dz_xhat;

  InputGradient() = default;
  GRADKERN_FORMULA InputGradient(double weight, double invstd, double sum_dz, double sum_dz_xhat,
                                 double count)
      : scale(constant<V>(weight * invstd)),
        mean_dz(constant<V>(count == 0 ? 0 : sum_dz / count)),
        mean_dz_xhat(constant<V>(count == 0 ? 0 : sum_dz_xhat / count)) {}

  GRADKERN_FORMULA V dx(V dz, V xhat) const {
    return scale * ((dz - mean_dz) - xhat * mean_dz_xhat);
  }
};

}  // namespace gradkern::formulas
