// Gated activations: rows that end within a vector and rows that don't, dense operands, and halves
// of a wider tensor's rows.

#include <cmath>
#include <vector>

#include "case.h"
#include "elements.h"
#include "expect.h"
#include "formulas/gated_activations.h"
#include "gated_call.h"
#include "tensors.h"

namespace gradkern::checks {
namespace {

// What the storage's rounding leaves of a product of three factors, and float32 arithmetic.
constexpr ByStorage tolerance_of{1e-5, 1e-13, 0x1p-7, 0x1p-10};
constexpr double kSmallestHalf = 0x1p-24;

struct Shape {
  int64_t rows, columns, stride;
};

// `in` in the order of the call.
std::vector<double> reference(const GatedCall& call, const std::vector<double>& in) {
  std::vector<double> out;
  formulas::GatedActivations::each([&](int index, auto formula) {
    using Formula = decltype(formula);
    if (index != call.activation) return;
    if (call.pass == GatedPass::kValue) {
      out = {Formula::value(in[0], in[1])};
    } else {
      const auto gradients = Formula::backward(in[0], in[1], in[2]);
      out = {gradients.gate, gradients.up};
    }
  });
  return out;
}

// What is left of the gate's gradient where the derivative is 0: GELU's and SiLU's crosses it
// between numbers, so that it is exact to some units of 1 only.
double error_at_zero(DType dtype, const GatedCall& call, const std::vector<double>& in,
                     int output) {
  if (call.pass == GatedPass::kValue || output != 0) return 0;
  return (dtype == DType::kFloat64 ? 0x1p-51 : 0x1p-22) * std::abs(in[0] * in[2]);
}

void check(const Setting& s, GatedPass pass, Shape shape, bool aligned) {
  const int inputs = inputs_of(pass), outputs = outputs_of(pass);
  TensorList tensors;
  for (int k = 0; k < inputs + outputs; k++) {
    const int64_t numel = (shape.rows - 1) * shape.stride + shape.columns;
    tensors.add(s.dtype, numel, numel, aligned, s.random);
  }
  std::vector<std::vector<double>> before;
  for (const Tensor& tensor : tensors.tensors()) before.push_back(tensor.elements());
  GatedCall call{};
  call.activation = static_cast<int32_t>(s.random() % formulas::GatedActivations::kSize);
  call.pass = pass;
  call.dtype = s.dtype;
  call.rows = shape.rows;
  call.columns = shape.columns;
  for (int k = 0; k < inputs; k++) {
    call.in[k] = tensors.spans()[k].data;
    call.in_stride[k] = shape.stride;
  }
  for (int k = 0; k < outputs; k++) {
    call.out[k] = tensors.spans()[inputs + k].data;
    call.out_stride[k] = shape.stride;
  }
  s.backend.gated({}, call);
  for (int64_t i = 0; i < static_cast<int64_t>(before[0].size()); i++) {
    std::vector<double> in;
    for (int k = 0; k < inputs; k++) in.push_back(before[k][i]);
    const std::vector<double> want = reference(call, in);
    for (int k = 0; k < outputs; k++) {
      const double got = read_element(s.dtype, call.out[k], i);
      if (i % shape.stride >= shape.columns) {
        expect_close(got, before[inputs + k][i], 0, "element between rows", i);
      } else if (!(std::abs(got - want[k]) <=
                   kSmallestHalf + error_at_zero(s.dtype, call, in, k))) {
        expect_close(got, want[k], tolerance_of(s.dtype), "element", i);
      }
    }
  }
  for (const Tensor& tensor : tensors.tensors()) {
    expect(tensor.padding_is_intact(), "the bytes before a tensor were written");
  }
}

void check(const Setting& s, GatedPass pass) {
  const int64_t vector = 16 / element_size(s.dtype);
  check(s, pass, {1, 1100 * vector + 1, 1100 * vector + 1}, true);
  check(s, pass, {37, 5 * vector + 1, 11 * vector}, true);
  check(s, pass, {9, 40 * vector, 80 * vector}, true);
  check(s, pass, {5, 300 * vector, 300 * vector + 1}, false);
  check(s, pass, {700, 1, 2}, false);
}

}  // namespace

void gated_values(const Setting& s) { check(s, GatedPass::kValue); }
void gated_backward(const Setting& s) { check(s, GatedPass::kBackward); }

}  // namespace gradkern::checks
