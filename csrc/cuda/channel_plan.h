// How work on channels is cut into blocks: plain arithmetic on sizes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend.h"
#include "cuda/launch_plan.h"

namespace gradkern::cuda {

// Element (o * channels + c) * inner + i, for o < outer and i < inner, belongs to channel c.
struct ChannelSizes {
  int64_t outer, channels, inner;
};

// Planes (inner > 1): a tile is a channel, of which a chunk is so many vectors; no vector crosses
// the end of a plane. Columns (inner = 1): a tile is the channels of which `across` threads side by
// side have a vector each, a chunk so many rows of it.
//
// Chunks follow from the sizes and the limits alone, not from the GPU: so do the bits of the sums.
struct ChannelPlan {
  int64_t tiles, chunks, chunk;
  int32_t across;  // a power of two, up to a warp; of planes 1

  ChannelPlan(const ChannelSizes& sizes, DType dtype, const LaunchLimits& limits);

  int64_t units() const { return tiles * chunks; }
};

// Vectors of a channel's planes: the last one of each need not be whole.
int64_t vectors_of_planes(const ChannelSizes& sizes, DType dtype);

// In the workspace, where a tile has several chunks: their partial results, of `fields` numbers at
// most for each channel, and how many of each tile's are done.
struct ChannelWorkspace {
  size_t partials, counters, bytes;

  ChannelWorkspace(const ChannelSizes& sizes, const ChannelPlan& plan, int fields);
};

}  // namespace gradkern::cuda
