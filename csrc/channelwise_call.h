// Activations with a parameter for each channel: what a device computes (backend.h).
#pragma once

#include <cstdint>

#include "backend.h"

namespace gradkern {

// f: the function of an element x and its channel's parameter w; g: the gradient of its value.
enum class ChannelwisePass : int32_t {
  kValue,     // x -> f(x, w)
  kBackward,  // g, x -> g * df/dx; and for each channel the sum of g * df/dw
};
inline constexpr int kChannelwisePassCount = 2;

constexpr int inputs_of(ChannelwisePass pass) { return pass == ChannelwisePass::kValue ? 1 : 2; }

// Dense memory of outer * channels * inner elements, at least one. The output may be one of the
// inputs.
struct ChannelwiseCall {
  int32_t activation;  // of formulas::ChannelwiseActivations
  ChannelwisePass pass;
  DType dtype;
  int64_t outer, channels, inner;
  const void* in[2];
  const void* weight;  // `channels` parameters
  void* out;
  void* grad_weight;  // kBackward: as many sums, in float64 until they are rounded once
};

}  // namespace gradkern
