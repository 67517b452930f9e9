#include "cuda/batch_norm_plan.h"

#include <algorithm>

namespace gradkern::cuda {
namespace {

// Enough blocks for any GPU to be busy, if they are there without chunks becoming so short that
// merging them takes longer than reading them.
constexpr int64_t kWantedUnits = 1024, kShortestChunk = 4096;

int64_t parts(int64_t n, int64_t size) { return n / size + (n % size != 0); }

// Tensors of the call's storage that its reductions read.
int64_t inputs_of(const BatchNormCall& call) {
  if (call.pass == BatchNormPass::kForward) return 1;
  return call.residual == nullptr ? 2 : 3;
}

}  // namespace

BatchNormPlan::BatchNormPlan(const BatchNormCall& call, const LaunchLimits& limits) {
  const int64_t vector = 16 / element_size(call.dtype);
  int64_t all;   // vectors of a channel, or rows
  int64_t unit;  // elements of one
  if (call.inner > 1) {
    across = 1;
    tiles = call.channels;
    unit = vector;
    all = call.outer * parts(call.inner, vector);
  } else {
    across = threads_across(parts(call.channels, vector));
    unit = across * vector;
    tiles = parts(call.channels, unit);
    all = call.outer;
  }
  held = (call.pass == BatchNormPass::kForward || call.pass == BatchNormPass::kBackward) &&
         call.inner > 1 && all * inputs_of(call) <= kHeldVectors && all * vector <= limits.chunk;
  if (held) {
    chunk = all;
    chunks = 1;
    return;
  }
  int64_t elements = limits.chunk;
  while (elements >= 2 * kShortestChunk && tiles * parts(all * unit, elements) < kWantedUnits) {
    elements /= 2;
  }
  chunk = std::max<int64_t>(1, elements / unit);
  chunks = parts(all, chunk);
}

BatchNormWorkspace::BatchNormWorkspace(const BatchNormCall& call, const BatchNormPlan& plan) {
  constexpr int64_t kFields = 3;
  const bool merges = plan.chunks > 1;
  partials = 0;
  counters = merges ? plan.chunks * call.channels * kFields * sizeof(double) : 0;
  bytes = counters + (merges ? plan.tiles * sizeof(unsigned) : 0);
}

}  // namespace gradkern::cuda
