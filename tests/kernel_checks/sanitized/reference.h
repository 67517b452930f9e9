// Plain float64 references.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace gradkern::checks {

inline double reference_norm(const std::vector<double>& values, double order) {
  double result = order == -INFINITY ? INFINITY : 0;
  for (const double value : values) {
    const double x = std::abs(value);
    if (order == 0) {
      result += x != 0;
    } else if (std::isinf(order)) {
      result = order > 0 ? std::max(result, x) : std::min(result, x);
    } else {
      result += std::pow(x, order);
    }
  }
  return order == 0 || std::isinf(order) ? result : std::pow(result, 1 / order);
}

}  // namespace gradkern::checks
