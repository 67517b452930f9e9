// The statistics of an activation's values as one reduction (formulas/norms.h says what that is).
//
// `add` assumes finite values; whether they were shows in the sum of squares. If not, the elements
// are taken once more by `add_finite`, which counts the others and keeps them out of every field.
#pragma once

#include "formulas/norms.h"

namespace gradkern::formulas {

struct ActivationStatistics {
  enum Field {
    kSum,
    kSumSquares,
    kAbsMax,
    kZeros,
    kNonfinite,
    kSaturated,
    kSumAbsDerivative,
    kFields
  };

  // One element, as it is measured. What is left out of all fields but kZeros: all four 0.
  template <class Narrow, class Wide>
  struct Measured {
    Narrow value;
    Narrow saturated;  // 1 or 0
    Wide wide_value;
    Wide abs_derivative;
  };

  template <class Narrow, class Wide>
  struct Lanes {
    Wide sum = Wide(0), sum_squares = Wide(0), sum_abs_derivative = Wide(0);
    running<Narrow> abs_max = running<Narrow>(0);
    Narrow saturated = Narrow(0);
    int zeros = 0, nonfinite = 0;

    GRADKERN_FORMULA void add(const Measured<Narrow, Wide>& x) {
      sum = sum + x.wide_value;
      sum_squares = accumulate_square(scalar_of<Narrow>(), x.wide_value, sum_squares);
      sum_abs_derivative = sum_abs_derivative + x.abs_derivative;
      abs_max = include_larger(absolute(x.value), abs_max);
      saturated = saturated + x.saturated;
      zeros += count(x.value == Narrow(0));
    }

    GRADKERN_FORMULA void add_finite(const Measured<Narrow, Wide>& x) {
      const auto infinite = Narrow(std::numeric_limits<scalar_of<Narrow>>::infinity());
      const auto finite = absolute(x.value) < infinite;
      const auto wide_finite = absolute(x.wide_value) < Wide(infinity());
      const Narrow left_out = select(finite, Narrow(0), Narrow(1));
      const int excluded = count(left_out != Narrow(0));
      add({select(finite, x.value, Narrow(0)), select(finite, x.saturated, Narrow(0)),
           select(wide_finite, x.wide_value, Wide(0)),
           select(wide_finite, x.abs_derivative, Wide(0))});
      nonfinite += excluded;
      zeros -= excluded;
    }

    template <class Visit>
    GRADKERN_FORMULA void each_field(Visit visit) const {
      visit(sum);
      visit(sum_squares);
      visit(abs_max);
      visit(zeros);
      visit(nonfinite);
      visit(saturated);
      visit(sum_abs_derivative);
    }
  };

  GRADKERN_FORMULA static bool saw_only_finite(const Partial<kFields>& p) {
    return p.value[kSumSquares] <= std::numeric_limits<double>::max();
  }

  GRADKERN_FORMULA static Partial<kFields> empty(double) { return {{0, 0, 0, 0, 0, 0, 0}}; }
  GRADKERN_FORMULA static void merge(Partial<kFields>& into, const Partial<kFields>& from, double) {
    into.value[kSum] += from.value[kSum];
    into.value[kSumSquares] += from.value[kSumSquares];
    into.value[kAbsMax] = larger(from.value[kAbsMax], into.value[kAbsMax]);
    into.value[kZeros] += from.value[kZeros];
    into.value[kNonfinite] += from.value[kNonfinite];
    into.value[kSaturated] += from.value[kSaturated];
    into.value[kSumAbsDerivative] += from.value[kSumAbsDerivative];
  }
};

}  // namespace gradkern::formulas
