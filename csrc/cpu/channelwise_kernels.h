// The inner loops of activations with a parameter for each channel, of one instruction set,
// compiled once per instruction set and storage type.
#pragma once

#include <cstdint>

#include "channelwise_call.h"
#include "cpu/kernels.h"
#include "cpu/storage.h"
#include "formulas/channelwise_activations.h"

namespace gradkern::cpu {

// `count` runs of `size` elements, `stride` apart.
struct ChannelRuns {
  int64_t count, size, stride;
};

// Lanes in which a channel's sum runs, whatever the instruction set.
inline constexpr int kSumLanes = 16;

// Of one storage type.
struct ChannelwiseKernels {
  enum Layout : int {
    kColumns,  // element i of each run has parameter i and adds to sum i
    kPlanes,   // all have the same parameter; element i adds to sum i % kSumLanes
    kLayoutCount
  };
  static constexpr int kActivations = formulas::ChannelwiseActivations::kSize;

  using Value = void (*)(const void* x, const void* weight, void* y, const ChannelRuns& runs);
  // A run's sums are accessed up to the next multiple of kSumLanes.
  using Backward = void (*)(const void* g, const void* x, const void* weight, void* grad_input,
                            double* sums, const ChannelRuns& runs);
  Value value[kActivations][kLayoutCount];
  Backward backward[kActivations][kLayoutCount];
};

}  // namespace gradkern::cpu

#if defined(GRADKERN_ISA)
namespace gradkern::cpu::GRADKERN_ISA {

template <class T>
ChannelwiseKernels channelwise_kernels();

}  // namespace gradkern::cpu::GRADKERN_ISA
#endif
