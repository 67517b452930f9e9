// Activations: every pass, and the statistics with channels that are counted in shared memory, in
// device memory, or not at all. The reference is the same formula in float64: whether it is right
// is for the tests of formulas to say, here it shows whether every element is there.

#include <cmath>
#include <vector>

#include "case.h"
#include "cuda/activation.cuh"
#include "elements.h"
#include "expect.h"
#include "formulas/activation_table.h"
#include "output_statistics.h"
#include "tensors.h"

namespace gradkern::checks {
namespace {

constexpr double kParameters[2] = {1, 2};  // of those that have any: valid for all

// What the storage's rounding leaves of a result, and float32 arithmetic of a small one.
constexpr ByStorage tolerance_of{1e-4, 1e-11, 0x1p-7, 0x1p-9};

void expect_near(double got, double want, DType dtype, const char* what, int64_t index) {
  if (std::abs(got - want) <= tolerance_of(dtype)) return;
  expect_close(got, want, tolerance_of(dtype), what, index);
}

// Any three of the table's rows; the seeds go through all.
std::vector<int> some_rows(const Setting& s) {
  std::vector<int> rows;
  for (int i = 0; i < 3; i++) rows.push_back(s.random() % formulas::Activations::kSize);
  return rows;
}

// Calls visit with the formula of a row.
template <class Visit>
void with_formula(int row, Visit visit) {
  formulas::Activations::each([&](int index, auto formula) {
    if (index == row) visit(formula);
  });
}

ActivationCall call_of(int row, ActivationPass pass, const TensorList& in, const TensorList& out) {
  ActivationCall call{};
  call.activation = row;
  call.pass = pass;
  call.dtype = in.spans()[0].dtype;
  call.numel = in.spans()[0].numel;
  for (int k = 0; k < 2; k++) {
    call.parameters[k] = kParameters[k];
    if (k < in.spans().size) call.in[k] = in.spans()[k].data;
    if (k < out.spans().size) call.out[k] = out.spans()[k].data;
  }
  return call;
}

TensorList tensors_of(int count, DType dtype, int64_t numel, bool aligned, Random& random) {
  TensorList list;
  for (int k = 0; k < count; k++) list.add(dtype, numel, numel, aligned, random);
  return list;
}

template <ActivationPass kPass, class Formula>
void check_pass(const Setting& s, int row, Formula, int64_t numel, bool aligned) {
  constexpr int kIn = inputs_of(kPass), kOut = outputs_of(kPass);
  const TensorList in = tensors_of(kIn, s.dtype, numel, aligned, s.random);
  const TensorList out = tensors_of(kOut, s.dtype, numel, aligned, s.random);
  s.backend.activation({}, call_of(row, kPass, in, out));
  for (int64_t i = 0; i < numel; i++) {
    double x[kIn], y[kOut];
    for (int k = 0; k < kIn; k++) x[k] = read_element(s.dtype, in.spans()[k].data, i);
    cuda::activate<Formula, kPass>(x, y, kParameters);
    for (int k = 0; k < kOut; k++) {
      expect_near(read_element(s.dtype, out.spans()[k].data, i), y[k], s.dtype, "element", i);
    }
  }
  for (const Tensor& tensor : out.tensors()) {
    expect(tensor.padding_is_intact(), "the bytes before a tensor were written");
  }
}

template <ActivationPass kPass>
void check_pass(const Setting& s) {
  constexpr bool kOfOutput =
      kPass == ActivationPass::kBackwardOfOutput || kPass == ActivationPass::kSecondOfOutput;
  const int64_t vector = 16 / element_size(s.dtype);
  for (const int row : some_rows(s)) {
    with_formula(row, [&](auto formula) {
      if constexpr (!kOfOutput || decltype(formula)::kSavesOutput) {
        check_pass<kPass>(s, row, formula, 300 * vector + vector - 1, true);
        check_pass<kPass>(s, row, formula, 70 * vector + 1, false);
        check_pass<kPass>(s, row, formula, 64 * vector, true);
      }
    });
  }
}

void check_statistics(const Setting& s, int row, int64_t numel, Channels channels, bool spoilt) {
  TensorList in = tensors_of(1, s.dtype, numel, true, s.random);
  if (spoilt) in.tensors()[0].set(numel / 2, NAN);
  const TensorList out = tensors_of(1, s.dtype, numel, true, s.random);
  const DeviceArray<double> statistics(kActivationStatisticCount + channels.count);
  const DeviceMemory workspace(s.backend.activation_workspace(numel));
  s.backend.activation_statistics({0, nullptr, nullptr, workspace.data()},
                                  call_of(row, ActivationPass::kValue, in, out), channels,
                                  statistics.data());
  expect_output_statistics(statistics, out.tensors()[0].elements(), channels.count);
}

}  // namespace

void activation_values(const Setting& s) { check_pass<ActivationPass::kValue>(s); }
void activation_derivatives(const Setting& s) { check_pass<ActivationPass::kDerivative>(s); }
void activations_with_derivatives(const Setting& s) {
  check_pass<ActivationPass::kValueAndDerivative>(s);
}
void activation_backward(const Setting& s) { check_pass<ActivationPass::kBackward>(s); }
void activation_backward_of_output(const Setting& s) {
  check_pass<ActivationPass::kBackwardOfOutput>(s);
}
void activation_second(const Setting& s) { check_pass<ActivationPass::kSecond>(s); }
void activation_second_of_output(const Setting& s) {
  check_pass<ActivationPass::kSecondOfOutput>(s);
}

void activation_statistics(const Setting& s) {
  const int64_t vector = 16 / element_size(s.dtype);
  const auto rows = some_rows(s);
  for (const int row : rows) check_statistics(s, row, 270 * vector + 1, {0, 0}, false);
  // Where the threads meet does not depend on the formula.
  const int row = rows.front();
  check_statistics(s, row, 270 * vector + vector - 1, {7, 13}, false);
  check_statistics(s, row, 64 * vector, {2048, 1}, false);  // as many as shared memory holds
  check_statistics(s, row, 64 * vector, {2049, 1}, false);
  check_statistics(s, row, 540 * vector + 3, {0, 0}, true);
}

}  // namespace gradkern::checks
