// Gated activations: what a device computes (backend.h).
#pragma once

#include <cstdint>

#include "backend.h"

namespace gradkern {

// g: the gradient of the value.
enum class GatedPass : int32_t {
  kValue,     // gate, up -> act(gate) * up
  kBackward,  // g, gate, up -> g * up * act'(gate), g * act(gate)
};
inline constexpr int kGatedPassCount = 2;

constexpr int inputs_of(GatedPass pass) { return pass == GatedPass::kValue ? 2 : 3; }
constexpr int outputs_of(GatedPass pass) { return pass == GatedPass::kValue ? 1 : 2; }

// Elementwise over rows of `columns` elements that lie side by side; the halves of a wider tensor's
// rows are operands as well. There is at least one element. An output may be one of the inputs.
struct GatedCall {
  int32_t activation;  // of formulas::GatedActivations
  GatedPass pass;
  DType dtype;
  int64_t rows, columns;
  const void* in[3];
  void* out[2];
  int64_t in_stride[3], out_stride[2];  // in elements, from a row to the next
};

}  // namespace gradkern
