// Batch normalisation's inner loops of one instruction set.
//
// Each runs on one thread over a chunk: runs of elements that lie side by side, either all of one
// channel (planes) or one of each of several channels (columns).
#pragma once

#include <cstdint>

#include "backend.h"
#include "cpu/runs.h"
#include "formulas/batch_norm.h"
#include "formulas/batch_norm_activations.h"

namespace gradkern::cpu {

// Columns that a kernel takes at most: their sums stay in the first-level cache.
inline constexpr int64_t kBatchNormColumns = 256;

// A vector of any instruction set may be read from a field's last entry on.
inline constexpr int64_t kConstantsPadding = 16;

// What belongs to each channel, field by field, in the type of the arithmetic. Of planes a kernel
// gets the constants of their channel, of columns those of the first and all that follow.
enum BatchNormConstant : int {
  kMeanHigh,
  kMeanLow,
  kInvstd,
  kWeight,
  kBias,
  kScale,
  kMeanDz,
  kMeanDzXhat,
  kBatchNormConstantCount,
};
struct BatchNormConstants {
  const void* data;
  int64_t field_stride;
};

// The chunk's elements. residual and grad_residual may be null.
struct BatchNormElements {
  const void* x;
  const void* residual;
  const void* grad_output;
  void* y;
  void* grad_input;
  void* grad_residual;
};

struct BatchNormKernels {
  // Of each column, or of all elements together.
  using Measure = void (*)(const Runs& runs, const void* x, formulas::Moments* moments);
  // dz and dz * xhat of each column, or of all elements together.
  using Sum = void (*)(const Runs& runs, const BatchNormConstants& constants,
                       const double* parameters, const BatchNormElements& elements, double* sum_dz,
                       double* sum_dz_xhat);
  // Elements to elements.
  using Write = void (*)(const Runs& runs, const BatchNormConstants& constants,
                         const double* parameters, const BatchNormElements& elements);
  // The same; the statistics of what is written (formulas/activation_statistics.h) go to `partial`,
  // and how many values of each column, or of all elements, are not saturated is added to `active`.
  using WriteAndMeasure = void (*)(const Runs& runs, const BatchNormConstants& constants,
                                   const double* parameters, const BatchNormElements& elements,
                                   double* partial, double* active);

  enum Layout : int { kPlanes, kColumns, kLayoutCount };
  static constexpr int kActivations = formulas::BatchNormActivations::kSize;
  static constexpr int kGradients = formulas::BatchNormGradients::kSize;

  Measure moments[kLayoutCount];
  Write normalise[kActivations][kLayoutCount];
  WriteAndMeasure normalise_and_measure[kActivations][kLayoutCount];
  Sum sums[kGradients][kLayoutCount];
  Write input_gradient[kGradients][kLayoutCount];
};

}  // namespace gradkern::cpu

#if defined(GRADKERN_ISA)
namespace gradkern::cpu::GRADKERN_ISA {

// The kernels of storage type T.
template <class T>
BatchNormKernels batch_norm_kernels();

}  // namespace gradkern::cpu::GRADKERN_ISA
#endif
