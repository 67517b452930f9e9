#include "cuda/launch_plan.h"

#include <algorithm>
#include <limits>

namespace gradkern::cuda {

LaunchLimits& launch_limits() {
  static LaunchLimits limits;
  return limits;
}

int64_t elementwise_chunk(DType dtype) {
  return std::min<int64_t>(kThreads * kInFlight * 16 / element_size(dtype), launch_limits().chunk);
}

LaunchPlan::LaunchPlan(TensorSpans tensors, const LaunchLimits& limits) : chunk_(limits.chunk) {
  for (const TensorSpan& span : tensors) by_segment_ |= span.segment != span.numel;
  if (by_segment_) chunk_ = std::numeric_limits<int64_t>::max();

  PlannedLaunch launch{0, 0, 0, 0, 0};
  const auto finish = [&](int64_t next_tensor, int64_t next_unit) {
    if (launch.tensors > 0) launches_.push_back(launch);
    launch = {next_tensor, 0, next_unit, 0, blocks_};
  };
  for (int64_t t = 0; t < tensors.size; t++) {
    const int64_t total = blocks_of(tensors[t]);
    int64_t unit = 0;
    while (unit < total) {
      if (launch.tensors == limits.tensors || launch.blocks == limits.blocks) finish(t, unit);
      const int64_t taken = std::min(total - unit, limits.blocks - launch.blocks);
      launch.tensors++;
      launch.blocks += taken;
      blocks_ += taken;
      unit += taken;
    }
  }
  finish(0, 0);
}

int64_t LaunchPlan::blocks_of(const TensorSpan& span) const {
  if (by_segment_) return span.segments();
  // An empty tensor has a block as well: it has a norm.
  return std::max<int64_t>(1, parts_of(span.numel, chunk_));
}

void LaunchPlan::fill(const PlannedLaunch& launch, TensorSpans tensors, TableEntry* table) const {
  int64_t first_block = 0;
  for (int32_t i = 0; i < launch.tensors; i++) {
    const TensorSpan& span = tensors[launch.first_tensor + i];
    table[i] = {span.data, span.numel, span.segment, static_cast<uint32_t>(first_block),
                static_cast<int32_t>(span.dtype)};
    first_block += blocks_of(span) - (i == 0 ? launch.first_unit : 0);
  }
}

WorkspaceLayout::WorkspaceLayout(int64_t tensors, int64_t blocks, int fields) {
  table = 0;
  partials = table + tensors * sizeof(TableEntry);
  counters = partials + blocks * fields * sizeof(double);
  bytes = counters + (tensors + 1) * sizeof(uint32_t);
}

}  // namespace gradkern::cuda
