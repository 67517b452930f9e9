// The gated activations' inner loops of one instruction set, compiled once per instruction set and
// storage type.
#pragma once

#include <cstdint>

#include "cpu/kernels.h"
#include "cpu/storage.h"
#include "formulas/gated_activations.h"
#include "gated_call.h"

namespace gradkern::cpu {

// Of one storage type.
struct GatedKernels {
  // n elements that lie side by side in each operand.
  using Run = void (*)(const void* const* in, void* const* out, int64_t n);
  Run run[formulas::GatedActivations::kSize][kGatedPassCount];
};

}  // namespace gradkern::cpu

#if defined(GRADKERN_ISA)
namespace gradkern::cpu::GRADKERN_ISA {

template <class T>
GatedKernels gated_kernels();

}  // namespace gradkern::cpu::GRADKERN_ISA
#endif
