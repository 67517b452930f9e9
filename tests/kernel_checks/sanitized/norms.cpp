// Norms of every order: whole tensors with their total, and unit by unit.

#include <cmath>

#include "case.h"
#include "expect.h"
#include "reductions.h"
#include "reference.h"
#include "tensors.h"

namespace gradkern::checks {
namespace {

constexpr DType kRounded[] = {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16};

void expect_norms(const double* norms, const TensorList& list, double order, double relative) {
  int64_t i = 0;
  for (const auto& values : list.segment_values()) {
    expect_close(norms[i], reference_norm(values, order), relative, "norm", i);
    i++;
  }
}

void check_norms(const Setting& s, double order) {
  // float64 sums in another order, and for other orders pow: a few units in the last place each.
  const double relative =
      order == 0 || std::isinf(order)
          ? (s.dtype == DType::kComplex64Modulus || s.dtype == DType::kComplex128Modulus ? 4e-16
                                                                                         : 0)
          : 1e-13;
  {
    const TensorList list = whole_tensors(s.dtype, s.random);
    const Call call(s, list.spans());
    const DeviceArray<double> norms(list.segments());
    const TotalMemory total(kRounded[s.random() % 4]);
    s.backend.norms(call.launch(), list.spans(), order, norms.data(), &total.total);
    expect_norms(norms.data(), list, order, relative);
    const std::vector<double> values(norms.data(), norms.data() + list.segments());
    expect_total(total, reference_norm(values, order), relative);
  }
  {
    const TensorList list = tensors_by_unit(s.dtype, s.random);
    const Call call(s, list.spans());
    const DeviceArray<double> norms(list.segments());
    s.backend.norms(call.launch(), list.spans(), order, norms.data(), nullptr);
    expect_norms(norms.data(), list, order, relative);
  }
}

}  // namespace

void norms_of_order_0(const Setting& s) { check_norms(s, 0); }
void norms_of_order_1(const Setting& s) { check_norms(s, 1); }
void norms_of_order_2(const Setting& s) { check_norms(s, 2); }
void largest_magnitudes(const Setting& s) { check_norms(s, INFINITY); }
void smallest_magnitudes(const Setting& s) { check_norms(s, -INFINITY); }
void norms_of_other_orders(const Setting& s) {
  check_norms(s, 3.5);
  check_norms(s, -1.5);
}

}  // namespace gradkern::checks
