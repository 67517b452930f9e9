// The CPU's inner loops: one table for each instruction set, filled by kernels.cpp's builds.
//
// Every function runs on one thread over one contiguous run of elements.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend.h"

namespace gradkern::cpu {

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

  // Reads every byte and returns the exclusive or of all 64-bit words: the machine's own read
  // bandwidth, which benchmarks hold the reductions against.
  uint64_t (*read_all)(const void* data, size_t bytes);
};

// The fastest table this machine can run, or the one that the environment variable
// GRADKERN_CPU_ISA names. Throws std::invalid_argument for a name that does not exist or that the
// machine cannot run.
const Kernels& kernels();

// Names of the instruction sets that were built and that this machine can run, slowest first,
// null-terminated.
const char* const* runnable_isas();

}  // namespace gradkern::cpu
