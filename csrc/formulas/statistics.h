// The statistics of a tensor as one reduction (formulas/norms.h says what a reduction is).
//
// Two forms of the same fields. `Lanes` assumes that every element is finite, which costs a healthy
// gradient nothing: a NaN or an infinity shows afterwards, because it makes the sum of squares NaN
// or infinite (squares cannot cancel). Then the chunk, still in cache, is read once more with
// `ExactLanes`, which counts the non-finite elements and keeps them out of the moments.
#pragma once

#include "formulas/norms.h"

namespace gradkern::formulas {

struct Statistics {
  enum Field { kSum, kSumSquares, kAbsMax, kAbsMinNonzero, kZeros, kNans, kInfs, kFields };
  static constexpr double kPadding = 0;  // and the padded zeros are taken off kZeros again

  template <class Narrow>
  GRADKERN_FORMULA static Narrow infinite() {
    return Narrow(std::numeric_limits<scalar_of<Narrow>>::infinity());
  }

  template <class Narrow, class Wide>
  struct Lanes {
    Wide sum = Wide(0), sum_squares = Wide(0);
    running<Narrow> abs_max = running<Narrow>(0);
    running<Narrow> abs_min_nonzero = infinite<running<Narrow>>();
    int zeros = 0;
    GRADKERN_FORMULA void add(Narrow x, Wide wide) {
      const Narrow magnitude = absolute(x);
      const auto is_zero = magnitude == Narrow(0);
      sum = sum + wide;
      sum_squares = accumulate_square(scalar_of<Narrow>(), wide, sum_squares);
      abs_max = include_larger(magnitude, abs_max);
      abs_min_nonzero = include_smaller_unless(is_zero, magnitude, abs_min_nonzero);
      zeros += count(is_zero);
    }
    template <class Visit>
    GRADKERN_FORMULA void each_field(Visit visit) const {
      visit(sum);
      visit(sum_squares);
      visit(abs_max);
      visit(abs_min_nonzero);
      visit(zeros);
      visit(0);
      visit(0);
    }
  };

  template <class Narrow, class Wide>
  struct ExactLanes {
    Lanes<Narrow, Wide> finite;
    int nans = 0, infs = 0;
    GRADKERN_FORMULA void add(Narrow x, Wide wide) {
      const auto is_nan = x != x;
      const auto is_inf = absolute(x) == infinite<Narrow>();
      nans += count(is_nan);
      infs += count(is_inf);
      // A non-finite element is added as a zero, which every field but the zeros ignores. The
      // float64 copy is replaced by the same rule, on its own comparisons.
      const Narrow kept = select(is_nan, Narrow(0), select(is_inf, Narrow(0), x));
      const auto wide_infinite = absolute(wide) == infinite<Wide>();
      finite.add(kept, select(wide != wide, Wide(0), select(wide_infinite, Wide(0), wide)));
    }
    template <class Visit>
    GRADKERN_FORMULA void each_field(Visit visit) const {
      visit(finite.sum);
      visit(finite.sum_squares);
      visit(finite.abs_max);
      visit(finite.abs_min_nonzero);
      visit(finite.zeros - nans - infs);
      visit(nans);
      visit(infs);
    }
  };

  GRADKERN_FORMULA static bool saw_only_finite(const Partial<kFields>& p) {
    return p.value[kSumSquares] <= std::numeric_limits<double>::max();
  }

  GRADKERN_FORMULA static Partial<kFields> empty(double) {
    return {{0, 0, 0, infinity(), 0, 0, 0}};
  }
  GRADKERN_FORMULA static void merge(Partial<kFields>& into, const Partial<kFields>& from, double) {
    into.value[kSum] += from.value[kSum];
    into.value[kSumSquares] += from.value[kSumSquares];
    into.value[kAbsMax] = larger(from.value[kAbsMax], into.value[kAbsMax]);
    into.value[kAbsMinNonzero] = smaller(from.value[kAbsMinNonzero], into.value[kAbsMinNonzero]);
    into.value[kZeros] += from.value[kZeros];
    into.value[kNans] += from.value[kNans];
    into.value[kInfs] += from.value[kInfs];
  }

  // The norm of order 0, 2 or infinity; non-finite where an element is.
  GRADKERN_FORMULA static double norm(const Partial<kFields>& p, double numel, double order) {
    if (order == 0) return numel - p.value[kZeros];
    if (p.value[kNans] > 0) return not_a_number();
    if (p.value[kInfs] > 0) return infinity();
    return order == 2 ? ::sqrt(p.value[kSumSquares]) : p.value[kAbsMax];
  }
};

}  // namespace gradkern::formulas
