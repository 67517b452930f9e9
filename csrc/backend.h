// The contract a device fulfils: a table of plain functions over raw pointers, sizes and dtypes.
//
// The front doors (torch_ops/, python/) know this header and nothing of how a device works; a
// device (cpu/, cuda/) knows this header and nothing of torch or Python. The CUDA library is a
// separate shared object that exports one C symbol, `gradkern_backend`, returning its table.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gradkern {

// Storage of the elements. The two moduli are complex storage of which |z| is the element: norms of
// every order but 2 need them. (For order 2, and for scaling, complex storage is passed as twice as
// many reals.)
enum class DType : int32_t {
  kFloat32,
  kFloat64,
  kBFloat16,
  kFloat16,
  kComplex64Modulus,
  kComplex128Modulus,
};
inline constexpr int kDTypeCount = 6;

constexpr int64_t element_size(DType dtype) {
  switch (dtype) {
    case DType::kBFloat16:
    case DType::kFloat16:
      return 2;
    case DType::kFloat32:
      return 4;
    case DType::kFloat64:
    case DType::kComplex64Modulus:
      return 8;
    case DType::kComplex128Modulus:
      return 16;
  }
  return 0;
}

// torch's promotion of real dtypes: the wider, and float32 for the two 16-bit ones together.
constexpr DType promote(DType a, DType b) {
  if (a == b) return a;
  if (a == DType::kFloat64 || b == DType::kFloat64) return DType::kFloat64;
  return DType::kFloat32;
}

// A tensor whose elements lie densely at `data`. A reduction gives one result for each run of
// `segment` elements: the whole tensor (segment == numel) or, for unit-wise norms, one output unit.
struct TensorSpan {
  void* data;
  int64_t numel;
  int64_t segment;
  DType dtype;

  // A division of 64 bits takes 40 cycles and more on Intel's processors before Ice Lake.
  int64_t segments() const { return segment == numel ? 1 : numel / segment; }
};

struct TensorSpans {
  const TensorSpan* data;
  int64_t size;

  const TensorSpan* begin() const { return data; }
  const TensorSpan* end() const { return data + size; }
  const TensorSpan& operator[](int64_t i) const { return data[i]; }
};

// Statistics of one tensor: the columns of a row of doubles, in this order.
enum Statistic : int {
  kCount,
  kSum,
  kSumSquares,
  kAbsMax,
  kAbsMinNonzero,
  kZeros,
  kNans,
  kInfs,
  kStatisticCount,
};

// Runs `task(context, i)` for i in [0, tasks) on the caller's thread pool. Null on the GPU.
struct Executor {
  int (*threads)();
  void (*run)(int64_t tasks, void (*task)(void* context, int64_t i), void* context);
};

// Where and with what a call runs. `workspace` is device memory of the size that
// `Backend::workspace` asked for, 16-byte aligned, uninitialised.
struct Launch {
  int32_t device;
  void* stream;
  const Executor* executor;
  void* workspace;
};

// How a scaling factor follows from norms that lie in device memory (formulas/clip_factor.h).
enum class ClipRule : int32_t {
  kTotalNorm,   // min(max_norm / (norm[0] + 1e-6), 1), the same for all tensors
  kEachNorm,    // min(max_norm / norm[i], 1) for segment i
  kWeightNorm,  // adaptive gradient clipping: norm[i] against weight_norm[i]
};

struct Clip {
  ClipRule rule;
  const double* norm;
  const double* weight_norm;  // kWeightNorm only
  double max_norm;            // kWeightNorm: clip_factor
  double eps;                 // kWeightNorm only
};

// Where a total norm goes: in float64, and, where `rounded` is not null, rounded to `dtype` as well
// (what a drop-in for native returns; the clip factor follows from the unrounded one).
struct TotalNorm {
  double* value;
  void* rounded;
  DType dtype;
};

// What an activation (formulas/activation_table.h) computes from its operands. x: the input, y: the
// value, g: a gradient.
enum class ActivationPass : int32_t {
  kValue,               // x -> y
  kDerivative,          // x -> dy/dx
  kValueAndDerivative,  // x -> y, dy/dx
  kBackward,            // g, x -> g * dy/dx
  kBackwardOfOutput,    // g, y -> g * dy/dx
  kSecond,              // g, x -> g * d/dx (dy/dx)
  kSecondOfOutput,      // g, y -> g * d/dy (dy/dx)
};
inline constexpr int kActivationPassCount = 7;

constexpr int inputs_of(ActivationPass pass) { return pass >= ActivationPass::kBackward ? 2 : 1; }
constexpr int outputs_of(ActivationPass pass) {
  return pass == ActivationPass::kValueAndDerivative ? 2 : 1;
}

// Elementwise over dense memory; an output may be one of the inputs.
struct ActivationCall {
  int32_t activation;  // row of the table
  ActivationPass pass;
  DType dtype;
  int64_t numel;
  double parameters[2];
  const void* in[2];
  void* out[2];
};

// Statistics of an activation's values: float64 numbers, in this order. Non-finite values are
// counted and kept out of the others.
enum ActivationStatistic : int {
  kActivationCount,
  kActivationSum,
  kActivationSumSquares,
  kActivationAbsMax,
  kActivationZeros,
  kActivationNonfinite,
  kActivationSaturated,
  kActivationSumAbsDerivative,
  kActivationStatisticCount,
};

// Element i of dense memory belongs to channel (i / inner) % count. No channels: count 0.
struct Channels {
  int64_t count;
  int64_t inner;
};

struct SoftmaxCall;      // softmax_call.h
struct BatchNormCall;    // batch_norm_call.h
struct GatedCall;        // gated_call.h
struct ChannelwiseCall;  // channelwise_call.h
struct RreluCall;        // rrelu_call.h

inline constexpr int32_t kBackendVersion = 4;

struct Backend {
  int32_t version;   // kBackendVersion of the build
  const char* name;  // "cpu", "cuda", "simt"

  // Why this backend can't run here, or null when it can ("the driver is too old for ...").
  const char* (*unavailable)();

  // Bytes of workspace that `norms`/`statistics`, followed by at most one `clip`, need.
  size_t (*workspace)(TensorSpans tensors);

  // norms[i]: the norm of order `order` of segment i, in float64. total, if not null: the norm of
  // order `order` of those norms (for order 0: how many of them are not 0).
  void (*norms)(const Launch& launch, TensorSpans tensors, double order, double* norms,
                const TotalNorm* total);

  // statistics[i * kStatisticCount + column] of tensor i (whole tensors only). norms and total as
  // above, if not null; `order` must then be 0, 2 or infinity: the orders that the statistics
  // determine.
  void (*statistics)(const Launch& launch, TensorSpans tensors, double* statistics, double order,
                     double* norms, const TotalNorm* total);

  // Multiplies each segment by its clip factor; leaves a segment whose factor is 1 untouched.
  // `after_reduction`: launch.workspace still holds what `norms` or `statistics` of the same
  // tensors left there.
  void (*clip)(const Launch& launch, TensorSpans tensors, const Clip& clip, bool after_reduction);

  // Clamps every element to [-bound, bound]; NaN stays NaN.
  void (*clamp)(const Launch& launch, TensorSpans tensors, double bound);

  void (*activation)(const Launch& launch, const ActivationCall& call);

  // Bytes of workspace that `activation_statistics` needs.
  size_t (*activation_workspace)(int64_t numel);

  // The pass kValue, and the statistics of what it writes: kActivationStatisticCount numbers, then
  // for each channel how many of its elements are active (not saturated). The output is not the
  // input.
  void (*activation_statistics)(const Launch& launch, const ActivationCall& call,
                                const Channels& channels, double* statistics);

  void (*softmax)(const Launch& launch, const SoftmaxCall& call);

  // Bytes of workspace that `batch_norm` needs.
  size_t (*batch_norm_workspace)(const BatchNormCall& call);
  void (*batch_norm)(const Launch& launch, const BatchNormCall& call);

  void (*gated)(const Launch& launch, const GatedCall& call);

  // Bytes of workspace that `channelwise` needs.
  size_t (*channelwise_workspace)(const ChannelwiseCall& call);
  void (*channelwise)(const Launch& launch, const ChannelwiseCall& call);

  void (*rrelu)(const Launch& launch, const RreluCall& call);
};

}  // namespace gradkern
