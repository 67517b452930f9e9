// Softmax along one dimension of dense memory: what a device computes (backend.h).
#pragma once

#include <cstdint>

#include "backend.h"

namespace gradkern {

// x: the input, y: the value that the forward pass gave, g: the gradient of y.
enum class SoftmaxPass : int32_t {
  kSoftmax,             // x -> exp(x) / sum(exp(x))
  kLogSoftmax,          // x -> x - log(sum(exp(x)))
  kSoftmaxBackward,     // g, y -> (g - sum(g * y)) * y
  kLogSoftmaxBackward,  // g, y -> g - exp(y) * sum(g)
};
inline constexpr int kSoftmaxPassCount = 4;

constexpr int inputs_of(SoftmaxPass pass) { return pass >= SoftmaxPass::kSoftmaxBackward ? 2 : 1; }

// Row (o, j) is the elements (o * size + i) * inner + j, for i in [0, size). There is at least one
// element. The output may be one of the inputs.
struct SoftmaxCall {
  SoftmaxPass pass;
  DType dtype;
  int64_t outer, size, inner;
  const void* in[2];
  void* out;
};

}  // namespace gradkern
