// How batch normalisation is cut into blocks: plain arithmetic on sizes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "batch_norm_call.h"
#include "cuda/launch_plan.h"

namespace gradkern::cuda {

// Vectors of a channel that a block keeps in shared memory: 40 KiB.
inline constexpr int kHeldVectors = 2560;

// Planes (inner > 1): a tile is a channel, of which a chunk is so many vectors; no vector crosses
// the end of a plane. Columns (inner = 1): a tile is the channels of which `across` threads side by
// side have a vector each, a chunk so many rows of it.
//
// Chunks follow from the sizes and the limits alone, not from the GPU: so do the bits of the sums.
struct BatchNormPlan {
  int64_t tiles, chunks, chunk;
  int32_t across;  // a power of two, up to a warp; of planes 1
  bool held;       // a block reads its channel once

  BatchNormPlan(const BatchNormCall& call, const LaunchLimits& limits);

  int64_t units() const { return tiles * chunks; }
};

// In the workspace, where a tile has several chunks: their partial results, of three numbers at
// most for each channel, and how many of each tile's are done.
struct BatchNormWorkspace {
  size_t partials, counters, bytes;

  BatchNormWorkspace(const BatchNormCall& call, const BatchNormPlan& plan);
};

}  // namespace gradkern::cuda
