// RReLU: the slope of every element is the generator's, whatever the type, alignment and block.

#include <cmath>
#include <vector>

#include "case.h"
#include "elements.h"
#include "expect.h"
#include "formulas/random_slope.h"
#include "rrelu_call.h"
#include "tensors.h"

namespace gradkern::checks {
namespace {

constexpr double kLower = 0.125, kUpper = 0.375;

// Of slopes in float32, and of the storage's rounding.
constexpr ByStorage tolerance_of{1e-6, 1e-14, 0x1p-8, 0x1p-10};
constexpr double kSmallestHalf = 0x1p-24;

void check(const Setting& s, RreluPass pass, int64_t numel, bool aligned) {
  TensorList tensors;  // the inputs, and the output
  for (int k = 0; k < inputs_of(pass) + 1; k++) {
    tensors.add(s.dtype, numel, numel, aligned, s.random);
  }
  DeviceArray<int64_t> seed(1);
  seed[0] = static_cast<int64_t>(s.random());
  RreluCall call{};
  call.pass = pass;
  call.dtype = s.dtype;
  call.numel = numel;
  call.lower = kLower;
  call.upper = kUpper;
  call.seed = seed.data();
  for (int k = 0; k < inputs_of(pass); k++) call.in[k] = tensors.spans()[k].data;
  call.out = tensors.spans()[inputs_of(pass)].data;
  s.backend.rrelu({}, call);
  const formulas::RandomSlope<double> slope(kLower, kUpper);
  for (int64_t i = 0; i < numel; i++) {
    const formulas::Philox4x32 random(i / 4, static_cast<uint64_t>(seed[0]));
    const double x = read_element(s.dtype, call.in[inputs_of(pass) - 1], i);
    const double factor = x > 0 ? 1 : slope.of(random.word[i % 4]);
    const double want = factor * read_element(s.dtype, call.in[0], i);
    const double got = read_element(s.dtype, call.out, i);
    if (!(std::abs(got - want) <= kSmallestHalf)) {
      expect_close(got, want, tolerance_of(s.dtype), "element", i);
    }
  }
  for (const Tensor& tensor : tensors.tensors()) {
    expect(tensor.padding_is_intact(), "the bytes before a tensor were written");
  }
}

// The first of the known answers of Random123 1.14 (kat_vectors).
void check_generator() {
  constexpr uint32_t kWords[4] = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
  const formulas::Philox4x32 random(0, 0);
  for (int k = 0; k < 4; k++) {
    expect(random.word[k] == kWords[k], "the generator is not Philox4x32-10");
  }
}

void check(const Setting& s, RreluPass pass) {
  check_generator();
  const int64_t vector = 16 / element_size(s.dtype);
  check(s, pass, 700 * vector + 1, true);
  check(s, pass, 300 * vector + vector - 1, false);
  check(s, pass, 1, true);
}

}  // namespace

void rrelu_values(const Setting& s) { check(s, RreluPass::kValue); }
void rrelu_backward(const Setting& s) { check(s, RreluPass::kBackward); }

}  // namespace gradkern::checks
