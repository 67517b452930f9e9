// Softmax, its logarithm and their backward passes: rows that a warp or a block holds in registers,
// longer ones, and columns.

#include <cmath>
#include <vector>

#include "case.h"
#include "elements.h"
#include "expect.h"
#include "softmax_call.h"
#include "tensors.h"

namespace gradkern::checks {
namespace {

struct Shape {
  int64_t outer, size, inner;
};

// What the storage's rounding leaves of a result, beside its terms.
constexpr ByStorage tolerance_of{1e-5, 1e-12, 0x1p-7, 0x1p-9};
constexpr double kSmallestHalf = 0x1p-24;

// The output for one row, and by the size of its terms how exact it can be.
struct Row {
  std::vector<double> output, terms;
};

Row reference(SoftmaxPass pass, const std::vector<double>& first,
              const std::vector<double>& second) {
  const size_t n = first.size();
  Row row{std::vector<double>(n), std::vector<double>(n)};
  double largest = -INFINITY, sum = 0, sum_of_magnitudes = 0;
  for (const double x : first) largest = std::max(largest, x);
  for (size_t i = 0; i < n; i++) {
    const double term = pass == SoftmaxPass::kSoftmaxBackward      ? first[i] * second[i]
                        : pass == SoftmaxPass::kLogSoftmaxBackward ? first[i]
                                                                   : std::exp(first[i] - largest);
    sum += term;
    sum_of_magnitudes += std::abs(term);
  }
  for (size_t i = 0; i < n; i++) {
    switch (pass) {
      case SoftmaxPass::kSoftmax:
        row.terms[i] = row.output[i] = std::exp(first[i] - largest) / sum;
        break;
      case SoftmaxPass::kLogSoftmax:
        row.output[i] = first[i] - largest - std::log(sum);
        row.terms[i] = std::abs(first[i]) + std::abs(largest) + std::log(sum);
        break;
      case SoftmaxPass::kSoftmaxBackward:
        row.output[i] = (first[i] - sum) * second[i];
        row.terms[i] = (std::abs(first[i]) + sum_of_magnitudes) * std::abs(second[i]);
        break;
      case SoftmaxPass::kLogSoftmaxBackward:
        row.output[i] = first[i] - std::exp(second[i]) * sum;
        row.terms[i] = std::abs(first[i]) + std::exp(second[i]) * sum_of_magnitudes;
        break;
    }
  }
  return row;
}

void check(const Setting& s, SoftmaxPass pass, Shape shape, bool aligned) {
  const int64_t numel = shape.outer * shape.size * shape.inner;
  TensorList tensors;  // the inputs, and the output
  for (int i = 0; i < inputs_of(pass) + 1; i++) {
    tensors.add(s.dtype, numel, numel, aligned, s.random);
  }
  const Tensor& out = tensors.tensors().back();
  SoftmaxCall call{pass, s.dtype, shape.outer, shape.size, shape.inner, {}, out.span().data};
  std::vector<double> in[2];
  for (int i = 0; i < inputs_of(pass); i++) {
    call.in[i] = tensors.spans()[i].data;
    in[i] = tensors.tensors()[i].elements();
  }
  s.backend.softmax({}, call);
  for (int64_t r = 0; r < shape.outer * shape.inner; r++) {
    const int64_t begin = r / shape.inner * shape.size * shape.inner + r % shape.inner;
    std::vector<double> row[2];
    for (int i = 0; i < inputs_of(pass); i++) {
      for (int64_t e = 0; e < shape.size; e++) row[i].push_back(in[i][begin + e * shape.inner]);
    }
    const Row want = reference(pass, row[0], row[1]);
    for (int64_t e = 0; e < shape.size; e++) {
      const int64_t index = begin + e * shape.inner;
      const double got = read_element(s.dtype, out.span().data, index);
      const double error = std::abs(got - want.output[e]);
      if (!(error <= tolerance_of(s.dtype) * want.terms[e] + kSmallestHalf)) {
        expect_close(got, want.output[e], 0, "element", index);
      }
    }
  }
  expect(out.padding_is_intact(), "the bytes before a tensor were written");
}

// The forward and the backward passes each take turns.
SoftmaxPass forward(const Setting& s) {
  return s.random() % 2 == 0 ? SoftmaxPass::kSoftmax : SoftmaxPass::kLogSoftmax;
}
SoftmaxPass backward(const Setting& s) {
  return s.random() % 2 == 0 ? SoftmaxPass::kSoftmaxBackward : SoftmaxPass::kLogSoftmaxBackward;
}

using AnyPass = SoftmaxPass (*)(const Setting& s);

// A warp holds 32 x 4 vectors of each of two inputs, a block eight times as many. There are more
// rows (and tiles of columns) than the smallest grid has blocks, so that some blocks have several.
void check_held_rows(const Setting& s, AnyPass pass) {
  const int64_t vector = 16 / element_size(s.dtype);
  check(s, pass(s), {19, 9 * vector + 1, 1}, true);
  check(s, pass(s), {11, 100 * vector, 1}, true);
  check(s, pass(s), {7, 600 * vector + 1, 1}, false);
  check(s, pass(s), {41, 1, 1}, true);
}

void check_long_rows(const Setting& s, AnyPass pass) {
  const int64_t vector = 16 / element_size(s.dtype);
  check(s, pass(s), {6, 8 * 256 * vector + vector + 1, 1}, true);
  check(s, pass(s), {2, 8 * 256 * vector + 256 * vector, 1}, false);
}

void check_columns(const Setting& s, AnyPass pass) {
  const int64_t vector = 16 / element_size(s.dtype);
  check(s, pass(s), {13, 40, 5}, true);
  check(s, pass(s), {2, 9, 40 * vector + 2}, false);
  check(s, pass(s), {1, 300, 2 * vector}, true);
}

}  // namespace

void softmax_of_held_rows(const Setting& s) { check_held_rows(s, forward); }
void softmax_of_held_rows_backward(const Setting& s) { check_held_rows(s, backward); }
void softmax_of_long_rows(const Setting& s) { check_long_rows(s, forward); }
void softmax_of_long_rows_backward(const Setting& s) { check_long_rows(s, backward); }
void softmax_of_columns(const Setting& s) { check_columns(s, forward); }
void softmax_of_columns_backward(const Setting& s) { check_columns(s, backward); }

}  // namespace gradkern::checks
