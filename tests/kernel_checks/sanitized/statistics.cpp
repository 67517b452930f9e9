// The eight statistics, of finite tensors and of some with NaN and infinity in them.

#include <cmath>
#include <vector>

#include "case.h"
#include "expect.h"
#include "reductions.h"
#include "reference.h"
#include "tensors.h"

namespace gradkern::checks {
namespace {

void expect_statistics(const double* row, const std::vector<double>& values, int64_t tensor) {
  double want[kStatisticCount] = {static_cast<double>(values.size())};
  want[kAbsMinNonzero] = INFINITY;
  double sum_of_magnitudes = 0;
  for (const double x : values) {
    if (std::isnan(x)) {
      want[kNans]++;
    } else if (std::isinf(x)) {
      want[kInfs]++;
    } else {
      want[kSum] += x;
      sum_of_magnitudes += std::abs(x);
      want[kSumSquares] += x * x;
      want[kAbsMax] = std::max(want[kAbsMax], std::abs(x));
      if (x != 0) want[kAbsMinNonzero] = std::min(want[kAbsMinNonzero], std::abs(x));
      want[kZeros] += x == 0;
    }
  }
  // A sum that cancels is as exact as its terms are.
  if (std::abs(row[kSum] - want[kSum]) <= 1e-13 * sum_of_magnitudes) want[kSum] = row[kSum];
  for (int column = 0; column < kStatisticCount; column++) {
    expect_close(row[column], want[column], column == kSumSquares ? 1e-13 : 0, "statistic",
                 tensor * kStatisticCount + column);
  }
}

void check(const Setting& s, TensorList& list, double order) {
  const Call call(s, list.spans());
  const int64_t count = list.segments();
  const DeviceArray<double> statistics(count * kStatisticCount);
  const DeviceArray<double> norms(count);
  const TotalMemory total(DType::kFloat32);
  s.backend.statistics(call.launch(), list.spans(), statistics.data(), order, norms.data(),
                       &total.total);
  const auto values = list.segment_values();
  for (int64_t t = 0; t < count; t++) {
    expect_statistics(statistics.data() + t * kStatisticCount, values[t], t);
    const bool finite = std::isfinite(reference_norm(values[t], 2));
    if (finite) expect_close(norms[t], reference_norm(values[t], order), 1e-13, "norm", t);
  }
  const std::vector<double> of_tensors(norms.data(), norms.data() + count);
  if (std::isfinite(reference_norm(of_tensors, 2))) {
    expect_total(total, reference_norm(of_tensors, order), 1e-13);
  }
}

}  // namespace

void statistics_of_tensors(const Setting& s) {
  constexpr double kOrders[] = {0, 2, INFINITY};
  TensorList finite = whole_tensors(s.dtype, s.random);
  check(s, finite, kOrders[s.random() % 3]);
  TensorList spoilt = whole_tensors(s.dtype, s.random);
  spoilt.tensors()[0].set(3, NAN);
  spoilt.tensors()[0].set(1290, -INFINITY);
  spoilt.tensors()[4].set(700, INFINITY);
  spoilt.tensors()[7].set(5, NAN);
  check(s, spoilt, 2);
}

}  // namespace gradkern::checks
