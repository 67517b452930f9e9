// Comparisons that end a case.
#pragma once

#include <cmath>
#include <cstdint>
#include <sstream>
#include <string>

#include "case.h"

namespace gradkern::checks {

// A number for each real storage type.
struct ByStorage {
  double float32, float64, bfloat16, float16;

  double operator()(DType dtype) const {
    switch (dtype) {
      case DType::kFloat64:
        return float64;
      case DType::kBFloat16:
        return bfloat16;
      case DType::kFloat16:
        return float16;
      default:
        return float32;
    }
  }
};

// `relative` 0: the same number, or both NaN.
inline void expect_close(double got, double want, double relative, const char* what,
                         int64_t index) {
  if (got == want || (std::isnan(got) && std::isnan(want))) return;
  if (std::abs(got - want) <= relative * std::abs(want)) return;
  std::ostringstream text;
  text.precision(17);
  text << what << ' ' << index << " was " << got << ", must be " << want;
  throw Mismatch(text.str());
}

inline void expect(bool condition, const char* what) {
  if (!condition) throw Mismatch(what);
}

}  // namespace gradkern::checks
