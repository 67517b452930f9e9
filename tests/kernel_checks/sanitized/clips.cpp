// Scaling by every rule of clipping, with tables in parameters and in the workspace; clamping.

#include <cmath>
#include <vector>

#include "case.h"
#include "elements.h"
#include "expect.h"
#include "reductions.h"
#include "reference.h"
#include "tensors.h"

namespace gradkern::checks {
namespace {

constexpr double kMaxNorm = 0.75, kEps = 1e-3;

double factor_of(ClipRule rule, double norm, double weight_norm) {
  switch (rule) {
    case ClipRule::kTotalNorm:
      return std::min(kMaxNorm / (norm + 1e-6), 1.0);
    case ClipRule::kEachNorm:
      return norm <= kMaxNorm ? 1 : kMaxNorm / norm;
    case ClipRule::kWeightNorm: {
      const double limit = std::max(weight_norm, kEps) * kMaxNorm;
      return norm < limit ? 1 : limit / std::max(norm, 1e-6);
    }
  }
  return 1;
}

// In the arithmetic of the kernels: float32, or float64 for float64.
double scaled(DType dtype, double x, double factor) {
  if (dtype == DType::kFloat64) return x * factor;
  return rounded_to(dtype, static_cast<float>(x) * static_cast<float>(factor));
}

std::vector<std::vector<double>> contents_of(const TensorList& list) {
  std::vector<std::vector<double>> contents;
  for (const Tensor& tensor : list.tensors()) contents.push_back(tensor.component_values());
  return contents;
}

template <class Map>
void expect_mapped(const TensorList& list, const std::vector<std::vector<double>>& before,
                   Map map) {
  int64_t segment = 0, t = 0;
  for (const Tensor& tensor : list.tensors()) {
    expect(tensor.padding_is_intact(), "the bytes before a tensor were written");
    const auto after = tensor.component_values();
    for (size_t i = 0; i < after.size(); i++) {
      const int64_t unit = segment + static_cast<int64_t>(i) / tensor.span().segment;
      expect_close(after[i], map(before[t][i], unit), 0, "element", static_cast<int64_t>(i));
    }
    segment += tensor.span().segments();
    t++;
  }
}

void check_clip(const Setting& s, TensorList list, ClipRule rule, bool after_reduction) {
  const Call call(s, list.spans());
  const int64_t count = list.segments();
  const DeviceArray<double> norms(count), weight_norms(count);
  const DeviceArray<double> total(1);
  const TotalNorm into{total.data(), nullptr, DType::kFloat64};
  const bool by_unit = list.spans()[0].segment != list.spans()[0].numel;
  if (after_reduction) {
    s.backend.norms(call.launch(), list.spans(), 2, norms.data(), by_unit ? nullptr : &into);
  } else {
    const auto values = list.segment_values();
    for (int64_t i = 0; i < count; i++) norms[i] = reference_norm(values[i], 2);
    total[0] = 30;
  }
  for (int64_t i = 0; i < count; i++) weight_norms[i] = s.random() % 2 == 0 ? 1e4 : 0.5 * norms[i];
  const bool of_total = rule == ClipRule::kTotalNorm;
  const Clip clip{rule, of_total ? total.data() : norms.data(), weight_norms.data(), kMaxNorm,
                  kEps};
  const auto before = contents_of(list);
  s.backend.clip(call.launch(), list.spans(), clip, after_reduction);
  expect_mapped(list, before, [&](double x, int64_t unit) {
    return scaled(s.dtype, x,
                  factor_of(rule, of_total ? total[0] : norms[unit], weight_norms[unit]));
  });
}

// One of the rules at a time; the seeds go through all.
ClipRule any_rule(const Setting& s) { return static_cast<ClipRule>(s.random() % 3); }

}  // namespace

void clip_with_table_in_parameters(const Setting& s) {
  check_clip(s, whole_tensors(s.dtype, s.random), any_rule(s), false);
  check_clip(s, tensors_by_unit(s.dtype, s.random),
             s.random() % 2 == 0 ? ClipRule::kEachNorm : ClipRule::kWeightNorm, false);
}

void clip_with_table_in_workspace(const Setting& s) {
  check_clip(s, whole_tensors(s.dtype, s.random), any_rule(s), true);
}

void clamp(const Setting& s) {
  TensorList list = whole_tensors(s.dtype, s.random);
  list.tensors()[0].set(7, NAN);
  list.tensors()[0].set(8, -INFINITY);
  const auto before = contents_of(list);
  const Call call(s, list.spans());
  s.backend.clamp(call.launch(), list.spans(), 0.7);
  const double bound = rounded_to(s.dtype, 0.7);
  expect_mapped(list, before, [&](double x, int64_t) {
    return std::isnan(x) ? x : std::min(std::max(x, -bound), bound);
  });
}

}  // namespace gradkern::checks
