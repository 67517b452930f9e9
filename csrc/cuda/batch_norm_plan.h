// How batch normalisation is cut into blocks: plain arithmetic on sizes.
#pragma once

#include "batch_norm_call.h"
#include "cuda/channel_plan.h"

namespace gradkern::cuda {

// Vectors of a channel that a block keeps in shared memory: 40 KiB.
inline constexpr int kHeldVectors = 2560;

// Numbers of a channel's partial result: a count, a mean and a sum of squares.
inline constexpr int kBatchNormFields = 3;

inline ChannelSizes sizes_of(const BatchNormCall& call) {
  return {call.outer, call.channels, call.inner};
}

struct BatchNormPlan : ChannelPlan {
  bool held;  // a block reads its channel once

  BatchNormPlan(const BatchNormCall& call, const LaunchLimits& limits);
};

// The workspace: the reductions' (from its beginning), then, where the output is measured, partial
// results of each unit's output, and how many blocks have theirs.
struct BatchNormWorkspace {
  size_t output_partials, output_counter, bytes;

  BatchNormWorkspace(const BatchNormCall& call, const BatchNormPlan& plan);
};

}  // namespace gradkern::cuda
