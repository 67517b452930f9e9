// Norms as reductions: what one element adds, how two partial results merge, what the norm is.
//
// A reduction is a type with
//   kFields                       how many float64 numbers a partial result holds
//   Lanes<Narrow, Wide>           running fields of one lane (scalar) or of a pack of lanes (SIMD).
//     add(Narrow x, Wide x)         takes one element, in the type it is compared in (float32 or
//                                   float64) and in the type it is summed in (float64)
//     each_field(visit)             its fields in the order of Partial
//   empty(order)                  the partial result of no elements
//   merge(into, from, order)      on partial results, in a fixed order on every device
//   norm(partial, order)          the result
//   kPadding                      an element that changes no field
//
// Sums run in float64, in which the square of a float32 (and so of a bfloat16 or float16) is exact
// and neither under- nor overflows: a gradient of 1e-26 has a norm, and so has one of 1e19.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "formulas/scalar.h"

namespace gradkern::formulas {

template <int kFields>
struct Partial {
  double value[kFields];
};

GRADKERN_FORMULA double infinity() { return std::numeric_limits<double>::infinity(); }
GRADKERN_FORMULA double not_a_number() { return std::numeric_limits<double>::quiet_NaN(); }

// sum + x * x. From float32 elements the product is exact and may be fused; from float64 elements
// it is not, and must be rounded before the addition so that every instruction set gives the same
// bits.
template <class Wide>
GRADKERN_FORMULA Wide accumulate_square(float, Wide x, Wide sum) {
  return add_exact_product(x, x, sum);
}
template <class Wide>
GRADKERN_FORMULA Wide accumulate_square(double, Wide x, Wide sum) {
  return sum + x * x;
}

// Order 2.
struct SumOfSquares {
  static constexpr int kFields = 1;
  static constexpr double kPadding = 0;

  template <class Narrow, class Wide>
  struct Lanes {
    Wide sum = Wide(0);
    GRADKERN_FORMULA void add(Narrow, Wide x) {
      sum = accumulate_square(scalar_of<Narrow>(), x, sum);
    }
    template <class Visit>
    GRADKERN_FORMULA void each_field(Visit visit) const {
      visit(sum);
    }
  };

  GRADKERN_FORMULA static Partial<1> empty(double) { return {{0}}; }
  GRADKERN_FORMULA static void merge(Partial<1>& into, const Partial<1>& from, double) {
    into.value[0] += from.value[0];
  }
  GRADKERN_FORMULA static double norm(const Partial<1>& p, double) { return ::sqrt(p.value[0]); }
};

// Order 1.
struct SumOfMagnitudes {
  static constexpr int kFields = 1;
  static constexpr double kPadding = 0;

  template <class Narrow, class Wide>
  struct Lanes {
    Wide sum = Wide(0);
    GRADKERN_FORMULA void add(Narrow, Wide x) { sum = sum + absolute(x); }
    template <class Visit>
    GRADKERN_FORMULA void each_field(Visit visit) const {
      visit(sum);
    }
  };

  GRADKERN_FORMULA static Partial<1> empty(double) { return {{0}}; }
  GRADKERN_FORMULA static void merge(Partial<1>& into, const Partial<1>& from, double) {
    into.value[0] += from.value[0];
  }
  GRADKERN_FORMULA static double norm(const Partial<1>& p, double) { return p.value[0]; }
};

// Order 0: how many elements are not zero (NaN is not zero).
struct NonzeroCount {
  static constexpr int kFields = 1;
  static constexpr double kPadding = 0;

  template <class Narrow, class Wide>
  struct Lanes {
    int64_t nonzero = 0;
    GRADKERN_FORMULA void add(Narrow x, Wide) { nonzero += count(x != Narrow(0)); }
    template <class Visit>
    GRADKERN_FORMULA void each_field(Visit visit) const {
      visit(nonzero);
    }
  };

  GRADKERN_FORMULA static Partial<1> empty(double) { return {{0}}; }
  GRADKERN_FORMULA static void merge(Partial<1>& into, const Partial<1>& from, double) {
    into.value[0] += from.value[0];
  }
  GRADKERN_FORMULA static double norm(const Partial<1>& p, double) { return p.value[0]; }
};

// Orders +infinity and -infinity. `nan` is 0 until an element is NaN and NaN from then on: no
// comparison can carry a NaN through a maximum.
template <bool kLargest>
struct ExtremeMagnitude {
  static constexpr int kFields = 2;
  static constexpr double kPadding = kLargest ? 0 : std::numeric_limits<double>::infinity();

  template <class T>
  GRADKERN_FORMULA static T extreme(T a, T b) {
    if constexpr (kLargest) {
      return larger(a, b);
    } else {
      return smaller(a, b);
    }
  }

  template <class Narrow, class Wide>
  struct Lanes {
    Narrow magnitude = Narrow(scalar_of<Narrow>(kPadding));
    Narrow nan = Narrow(0);
    GRADKERN_FORMULA void add(Narrow x, Wide) {
      magnitude = extreme(absolute(x), magnitude);
      nan = nan + select(x == x, Narrow(0), x);
    }
    template <class Visit>
    GRADKERN_FORMULA void each_field(Visit visit) const {
      visit(magnitude);
      visit(nan);
    }
  };

  GRADKERN_FORMULA static Partial<2> empty(double) { return {{kPadding, 0}}; }
  GRADKERN_FORMULA static void merge(Partial<2>& into, const Partial<2>& from, double) {
    into.value[0] = extreme(from.value[0], into.value[0]);
    into.value[1] += from.value[1];
  }
  GRADKERN_FORMULA static double norm(const Partial<2>& p, double) {
    return is_nan(p.value[1]) ? p.value[1] : p.value[0];
  }
};
using LargestMagnitude = ExtremeMagnitude<true>;
using SmallestMagnitude = ExtremeMagnitude<false>;

// Every other order p: sum |x|^p, held as (scale, sum of (|x| / scale)^p) so that no power of a
// float32 under- or overflows float64 for any p. The scale of a chunk is its largest magnitude (its
// smallest for p < 0), which dominates the sum. Elements that are float64 already are not scaled:
// that is the range native gives them too.
struct ScaledPowers {
  static constexpr int kFields = 2;

  template <class Narrow, class Wide>
  struct Lanes {
    Wide sum = Wide(0);
    double scale;
    double order;
    GRADKERN_FORMULA Lanes(double scale_, double order_) : scale(scale_), order(order_) {}
    GRADKERN_FORMULA void add(Narrow, Wide x) {
      sum = sum + power(absolute(x) / Wide(scale), order);
    }
    template <class Visit>
    GRADKERN_FORMULA void each_field(Visit visit) const {
      visit(sum);
    }
  };

  // A scale that decides the norm by itself: nothing can or need be divided by it.
  GRADKERN_FORMULA static bool degenerate(double scale) {
    return scale == 0 || scale == infinity() || is_nan(scale);
  }

  GRADKERN_FORMULA static double padding(double order) { return order < 0 ? infinity() : 0.0; }

  // What no element at all gives: the scale that any other replaces, and an empty sum.
  GRADKERN_FORMULA static Partial<2> empty(double order) { return {{padding(order), 0}}; }

  // One norm of this order, as what merges into the norm of norms.
  GRADKERN_FORMULA static Partial<2> of_norm(double norm, double order) {
    return {{norm, norm == padding(order) ? 0.0 : 1.0}};
  }

  GRADKERN_FORMULA static void merge(Partial<2>& into, const Partial<2>& from, double order) {
    const double a = into.value[0], b = from.value[0];
    if (is_nan(a) || is_nan(b)) {
      into.value[0] = not_a_number();
    } else if (from.value[1] == 0 && !(order < 0 ? b < a : b > a)) {
      // Nothing beside what is there already.
    } else if (into.value[1] == 0 || a == b) {
      if (order < 0 ? b < a : b > a) into.value[0] = b;
      into.value[1] += from.value[1];
    } else {
      const double scale = order < 0 ? smaller(a, b) : larger(a, b);
      if (!degenerate(scale)) {
        into.value[1] =
            into.value[1] * power(a / scale, order) + from.value[1] * power(b / scale, order);
      }
      into.value[0] = scale;
    }
  }

  GRADKERN_FORMULA static double norm(const Partial<2>& p, double order) {
    const double scale = p.value[0];
    if (is_nan(order) || is_nan(scale)) return not_a_number();
    if (degenerate(scale)) return scale;
    return scale * power(p.value[1], 1 / order);
  }
};

// The partial result of one lane's fields.
template <class Formula, class Lanes>
GRADKERN_FORMULA Partial<Formula::kFields> partial_of(const Lanes& lanes) {
  Partial<Formula::kFields> partial;
  int field = 0;
  lanes.each_field([&](auto value) { partial.value[field++] = static_cast<double>(value); });
  return partial;
}

// The norm of norms: element i of `norms` for i = begin, begin + step, ... below count. A backend
// merges the parts of its threads, if it has several, in a fixed order.
template <class Formula, class Read>
GRADKERN_FORMULA Partial<Formula::kFields> norms_of_norms(Read read, int64_t begin, int64_t step,
                                                          int64_t count, double order) {
  if constexpr (std::is_same_v<Formula, ScaledPowers>) {
    Partial<2> total = ScaledPowers::empty(order);
    for (int64_t i = begin; i < count; i += step) {
      ScaledPowers::merge(total, ScaledPowers::of_norm(read(i), order), order);
    }
    return total;
  } else {
    typename Formula::template Lanes<double, double> lanes;
    for (int64_t i = begin; i < count; i += step) {
      const double norm = read(i);
      lanes.add(norm, norm);
    }
    return partial_of<Formula>(lanes);
  }
}

}  // namespace gradkern::formulas
