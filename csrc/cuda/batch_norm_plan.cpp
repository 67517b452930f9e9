#include "cuda/batch_norm_plan.h"

#include "formulas/activation_statistics.h"

namespace gradkern::cuda {
namespace {

// Tensors of the call's storage that its reductions read.
int64_t inputs_of(const BatchNormCall& call) {
  if (call.pass == BatchNormPass::kForward) return 1;
  return call.residual == nullptr ? 2 : 3;
}

}  // namespace

BatchNormPlan::BatchNormPlan(const BatchNormCall& call, const LaunchLimits& limits)
    : ChannelPlan(sizes_of(call), call.dtype, limits), held(false) {
  if (call.pass != BatchNormPass::kForward && call.pass != BatchNormPass::kBackward) return;
  if (call.inner == 1) return;
  const int64_t all = vectors_of_planes(sizes_of(call), call.dtype);
  held = all * inputs_of(call) <= kHeldVectors &&
         all * (16 / element_size(call.dtype)) <= limits.chunk;
  if (!held) return;
  chunk = all;
  chunks = 1;
}

BatchNormWorkspace::BatchNormWorkspace(const BatchNormCall& call, const BatchNormPlan& plan)
    : output_partials(0),
      output_counter(0),
      bytes(ChannelWorkspace(sizes_of(call), plan, kBatchNormFields).bytes) {
  if (call.output_statistics == nullptr) return;
  output_partials = parts_of(bytes, sizeof(double)) * sizeof(double);
  output_counter =
      output_partials + plan.units() * formulas::ActivationStatistics::kFields * sizeof(double);
  bytes = output_counter + sizeof(unsigned);
}

}  // namespace gradkern::cuda
