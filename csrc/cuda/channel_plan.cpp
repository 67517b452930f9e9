#include "cuda/channel_plan.h"

#include <algorithm>

namespace gradkern::cuda {
namespace {

// Enough blocks for any GPU to be busy, if they are there without chunks becoming so short that
// merging them takes longer than reading them.
constexpr int64_t kWantedUnits = 1024, kShortestChunk = 4096;

}  // namespace

int64_t vectors_of_planes(const ChannelSizes& sizes, DType dtype) {
  return sizes.outer * parts_of(sizes.inner, 16 / element_size(dtype));
}

ChannelPlan::ChannelPlan(const ChannelSizes& sizes, DType dtype, const LaunchLimits& limits) {
  const int64_t vector = 16 / element_size(dtype);
  int64_t all;   // vectors of a channel, or rows
  int64_t unit;  // elements of one
  if (sizes.inner > 1) {
    across = 1;
    tiles = sizes.channels;
    unit = vector;
    all = vectors_of_planes(sizes, dtype);
  } else {
    across = threads_across(parts_of(sizes.channels, vector));
    unit = across * vector;
    tiles = parts_of(sizes.channels, unit);
    all = sizes.outer;
  }
  int64_t elements = limits.chunk;
  while (elements >= 2 * kShortestChunk && tiles * parts_of(all * unit, elements) < kWantedUnits) {
    elements /= 2;
  }
  chunk = std::max<int64_t>(1, elements / unit);
  chunks = parts_of(all, chunk);
}

ChannelWorkspace::ChannelWorkspace(const ChannelSizes& sizes, const ChannelPlan& plan, int fields) {
  const bool merges = plan.chunks > 1;
  partials = 0;
  counters = merges ? plan.chunks * sizes.channels * fields * sizeof(double) : 0;
  bytes = counters + (merges ? plan.tiles * sizeof(unsigned) : 0);
}

}  // namespace gradkern::cuda
