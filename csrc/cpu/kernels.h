// The CPU's inner loops: one table for each instruction set, filled by kernels.cpp's builds.
//
// Every function runs on one thread over one contiguous run of elements.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend.h"
#include "formulas/activation_table.h"

namespace gradkern::cpu {

struct BatchNormKernels;
struct ChannelwiseKernels;
struct GatedKernels;
struct RreluKernels;
struct SoftmaxKernels;

enum class Reduction {
  kNonzeroCount,
  kSumOfMagnitudes,
  kSumOfSquares,
  kLargestMagnitude,
  kSmallestMagnitude,
  kScaledPowers,
  kStatistics,
};
inline constexpr int kReductionCount = 7;

struct Kernels {
  const char* isa;

  // Writes the partial result (formulas/norms.h, formulas/statistics.h) of n elements.
  using Reduce = void (*)(const void* data, int64_t n, double order, double* partial);
  Reduce reduce[kReductionCount][kDTypeCount];

  using Scale = void (*)(void* data, int64_t n, double factor);
  Scale scale[kDTypeCount];  // null for the moduli

  using Clamp = void (*)(void* data, int64_t n, double bound);
  Clamp clamp[kDTypeCount];  // null for the moduli

  // One pass of an activation; null for the passes a row does not have and for the moduli.
  using Activate = void (*)(const void* const* in, void* const* out, int64_t n,
                            const double* parameters);
  Activate activate[formulas::Activations::kSize][kActivationPassCount][kDTypeCount];

  // Products with as many numbers, rounded once; null for all but 16-bit storage.
  using Multiply = void (*)(const void* data, const float* factors, void* out, int64_t n);
  Multiply multiply[kDTypeCount];

  // The pass kValue; also writes the partial result (formulas/activation_statistics.h) of the n
  // elements, of which the first is element `begin` of the tensor, and adds the number of active
  // ones to `active` of each channel.
  using ActivateAndMeasure = void (*)(const void* in, void* out, int64_t begin, int64_t n,
                                      const double* parameters, const Channels& channels,
                                      double* partial, double* active);
  ActivateAndMeasure activate_and_measure[formulas::Activations::kSize][kDTypeCount];

  // Softmax and what belongs to it: kSoftmaxPassCount rows of kRealDTypes (softmax_kernels.h).
  const SoftmaxKernels* softmax;

  // Of each of kRealDTypes (batch_norm_kernels.h, ...).
  const BatchNormKernels* batch_norm;
  const GatedKernels* gated;
  const ChannelwiseKernels* channelwise;
  const RreluKernels* rrelu;

  // Reads every byte and returns the exclusive or of all 64-bit words: the machine's own read
  // bandwidth, which benchmarks hold the reductions against.
  uint64_t (*read_all)(const void* data, size_t bytes);
};

// Storage types that the activations have: the first ones of DType.
inline constexpr int kRealDTypes = 4;

// The fastest table this machine can run, or the one that the environment variable
// GRADKERN_CPU_ISA names. Throws std::invalid_argument for a name that does not exist or that the
// machine cannot run.
const Kernels& kernels();

// Names of the instruction sets that were built and that this machine can run, slowest first,
// null-terminated.
const char* const* runnable_isas();

}  // namespace gradkern::cpu
