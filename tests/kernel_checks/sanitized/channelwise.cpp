// Activations with a parameter for each channel: planes and columns, with one chunk for each tile
// and with several; a parameter for all.

#include <cmath>
#include <vector>

#include "case.h"
#include "channelwise_call.h"
#include "elements.h"
#include "expect.h"
#include "formulas/channelwise_activations.h"
#include "tensors.h"

namespace gradkern::checks {
namespace {

// What the storage's rounding leaves of a result, and float32 arithmetic of a small one.
constexpr ByStorage tolerance_of{1e-5, 1e-13, 0x1p-6, 0x1p-9};

struct Sizes {
  int64_t outer, channels, inner;

  int64_t numel() const { return outer * channels * inner; }
  int64_t channel_of(int64_t element) const { return element / inner % channels; }
};

formulas::ChannelwiseAt<double> reference(const ChannelwiseCall& call, double x, double weight) {
  formulas::ChannelwiseAt<double> at{};
  formulas::ChannelwiseActivations::each([&](int index, auto formula) {
    if (index == call.activation) at = decltype(formula)::at(x, weight);
  });
  return at;
}

void check(const Setting& s, ChannelwisePass pass, Sizes sizes, bool aligned) {
  enum { kGrad, kX, kOut, kWeight, kGradWeight, kTensors };
  TensorList tensors;
  for (int k = 0; k < kTensors; k++) {
    const int64_t numel = k >= kWeight ? sizes.channels : sizes.numel();
    tensors.add(s.dtype, numel, numel, aligned, s.random);
  }
  const auto data = [&](int tensor) { return tensors.spans()[tensor].data; };
  std::vector<std::vector<double>> before;
  for (const Tensor& tensor : tensors.tensors()) before.push_back(tensor.elements());
  const bool backward = pass == ChannelwisePass::kBackward;
  ChannelwiseCall call{};
  call.activation = static_cast<int32_t>(s.random() % formulas::ChannelwiseActivations::kSize);
  call.pass = pass;
  call.dtype = s.dtype;
  call.outer = sizes.outer;
  call.channels = sizes.channels;
  call.inner = sizes.inner;
  call.in[0] = data(backward ? kGrad : kX);
  call.in[1] = backward ? data(kX) : nullptr;
  call.weight = data(kWeight);
  call.out = data(kOut);
  call.grad_weight = backward ? data(kGradWeight) : nullptr;
  const DeviceMemory workspace(s.backend.channelwise_workspace(call));
  s.backend.channelwise({0, nullptr, nullptr, workspace.data()}, call);

  std::vector<double> sums(sizes.channels), magnitudes(sizes.channels);
  const double tolerance = tolerance_of(s.dtype);
  for (int64_t i = 0; i < sizes.numel(); i++) {
    const int64_t channel = sizes.channel_of(i);
    const auto at = reference(call, before[kX][i], before[kWeight][channel]);
    const double want = backward ? before[kGrad][i] * at.derivative : at.value;
    const double got = read_element(s.dtype, data(kOut), i);
    if (!(std::abs(got - want) <= tolerance)) expect_close(got, want, tolerance, "element", i);
    sums[channel] += before[kGrad][i] * at.of_weight;
    magnitudes[channel] += std::abs(before[kGrad][i] * at.of_weight);
  }
  for (int64_t c = 0; backward && c < sizes.channels; c++) {
    const double got = read_element(s.dtype, data(kGradWeight), c);
    const double allowed = tolerance * std::abs(sums[c]) + 1e-6 * magnitudes[c];
    if (!(std::abs(got - sums[c]) <= allowed)) {
      expect_close(got, sums[c], 0, "gradient of the parameter of channel", c);
    }
  }
  for (const Tensor& tensor : tensors.tensors()) {
    expect(tensor.padding_is_intact(), "the bytes before a tensor were written");
  }
}

void check(const Setting& s, ChannelwisePass pass) {
  const int64_t vector = 16 / element_size(s.dtype);
  check(s, pass, {3, 2, 400 * vector}, true);
  check(s, pass, {5, 3, 3 * vector + 1}, false);
  check(s, pass, {1200, vector, 1}, true);
  check(s, pass, {23, 35 * vector + 1, 1}, false);
  check(s, pass, {4, 1, 300 * vector + 1}, true);
}

}  // namespace

void channelwise_values(const Setting& s) { check(s, ChannelwisePass::kValue); }
void channelwise_backward(const Setting& s) { check(s, ChannelwisePass::kBackward); }

}  // namespace gradkern::checks
