// What the statistics of written values must be, by the values.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "backend.h"
#include "device_memory.h"
#include "expect.h"

namespace gradkern::checks {

// kActivationStatisticCount numbers, and as many as there are channels.
inline void expect_output_statistics(const DeviceArray<double>& got,
                                     const std::vector<double>& values, int64_t channels) {
  double want[kActivationStatisticCount] = {static_cast<double>(values.size())};
  double sum_of_magnitudes = 0;
  for (const double y : values) {
    if (!std::isfinite(y)) {
      want[kActivationNonfinite]++;
      continue;
    }
    want[kActivationSum] += y;
    sum_of_magnitudes += std::abs(y);
    want[kActivationSumSquares] += y * y;
    want[kActivationAbsMax] = std::max(want[kActivationAbsMax], std::abs(y));
    want[kActivationZeros] += y == 0;
  }
  expect(std::abs(got[kActivationSum] - want[kActivationSum]) <= 1e-13 * sum_of_magnitudes,
         "the sum of the values is wrong");
  for (const int column : {kActivationCount, kActivationSumSquares, kActivationAbsMax,
                           kActivationZeros, kActivationNonfinite}) {
    expect_close(got[column], want[column], column == kActivationSumSquares ? 1e-13 : 0,
                 "statistic", column);
  }
  if (channels == 0 || want[kActivationNonfinite] > 0) return;
  double active = 0;
  for (int64_t c = 0; c < channels; c++) active += got[kActivationStatisticCount + c];
  expect_close(active, want[kActivationCount] - got[kActivationSaturated], 0,
               "the number of active elements", 0);
}

}  // namespace gradkern::checks
