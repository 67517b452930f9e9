// RReLU's inner loops of one instruction set, compiled once per instruction set and storage type.
#pragma once

#include <cstdint>

#include "cpu/kernels.h"
#include "cpu/storage.h"
#include "rrelu_call.h"

namespace gradkern::cpu {

// Of one storage type.
struct RreluKernels {
  // n elements, of which the first is element `begin` of the tensor, a multiple of 4.
  using Run = void (*)(const void* const* in, void* out, int64_t begin, int64_t n, double lower,
                       double upper, uint64_t seed);
  Run run[kRreluPassCount];
};

}  // namespace gradkern::cpu

#if defined(GRADKERN_ISA)
namespace gradkern::cpu::GRADKERN_ISA {

template <class T>
RreluKernels rrelu_kernels();

}  // namespace gradkern::cpu::GRADKERN_ISA
#endif
