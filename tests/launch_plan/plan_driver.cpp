// csrc/cuda/launch_plan.cpp, channel_plan.cpp, batch_norm_plan.cpp and table.cuh as C functions,
// for plans of any size: no element is ever touched.

#include <cstdlib>
#include <new>
#include <vector>

#include "cuda/batch_norm_plan.h"
#include "cuda/channel_plan.h"
#include "cuda/launch_plan.h"
#include "cuda/table.cuh"

namespace {

thread_local int64_t g_allocated = 0;

}  // namespace

// Every allocation of this library, counted.
void* operator new(size_t bytes) {
  g_allocated += static_cast<int64_t>(bytes);
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

using gradkern::TensorSpan;
using gradkern::TensorSpans;
using namespace gradkern::cuda;

// What the arrays of numbers in launch_plans.py are laid out as.
static_assert(sizeof(TensorSpan) == 32 && sizeof(TableEntry) == 32);
static_assert(sizeof(PlannedLaunch) == 40 && sizeof(Piece) == 48);
static_assert(sizeof(LaunchLimits) == 24);

struct MadePlan {
  LaunchPlan plan;
  int64_t allocated;
};

extern "C" {

LaunchLimits default_limits() { return LaunchLimits(); }

MadePlan* make_plan(const TensorSpan* spans, int64_t tensors, LaunchLimits limits) {
  const int64_t before = g_allocated;
  LaunchPlan plan(TensorSpans{spans, tensors}, limits);
  const int64_t allocated = g_allocated - before;
  return new MadePlan{std::move(plan), allocated};
}

void free_plan(MadePlan* made) { delete made; }

int64_t plan_allocated(const MadePlan* made) { return made->allocated; }
int64_t plan_blocks(const MadePlan* made) { return made->plan.blocks(); }
int64_t plan_chunk(const MadePlan* made) { return made->plan.chunk(); }
bool plan_by_segment(const MadePlan* made) { return made->plan.by_segment(); }
int64_t plan_launch_count(const MadePlan* made) {
  return static_cast<int64_t>(made->plan.launches().size());
}

void plan_launches(const MadePlan* made, PlannedLaunch* launches) {
  for (const PlannedLaunch& launch : made->plan.launches()) *launches++ = launch;
}

void fill_table(const MadePlan* made, const TensorSpan* spans, int64_t tensors, int64_t launch,
                TableEntry* table) {
  made->plan.fill(made->plan.launches()[launch], TensorSpans{spans, tensors}, table);
}

// What `blocks` blocks from `first_block` on (of the launch) find in the table.
void find_pieces(const TableEntry* table, int count, int64_t chunk, int64_t first_unit,
                 uint32_t first_block, int64_t blocks, Piece* pieces) {
  for (int64_t i = 0; i < blocks; i++) {
    blockIdx.x = first_block + static_cast<uint32_t>(i);
    pieces[i] = find_piece(table, count, chunk, first_unit);
  }
}

void workspace_layout(int64_t tensors, int64_t blocks, int fields, uint64_t* offsets) {
  const WorkspaceLayout layout(tensors, blocks, fields);
  offsets[0] = layout.table;
  offsets[1] = layout.partials;
  offsets[2] = layout.counters;
  offsets[3] = layout.bytes;
}

void channel_plan(ChannelSizes sizes, int dtype, LaunchLimits limits, int fields,
                  int64_t* numbers) {
  const ChannelPlan plan(sizes, static_cast<gradkern::DType>(dtype), limits);
  const ChannelWorkspace workspace(sizes, plan, fields);
  const int64_t made[] = {plan.tiles,
                          plan.chunks,
                          plan.chunk,
                          plan.across,
                          plan.units(),
                          static_cast<int64_t>(workspace.counters),
                          static_cast<int64_t>(workspace.bytes)};
  for (const int64_t number : made) *numbers++ = number;
}

// Of the forward pass, or of the backward pass with a residual.
bool batch_norm_is_held(ChannelSizes sizes, int dtype, LaunchLimits limits, bool backward) {
  gradkern::BatchNormCall call{};
  call.pass = backward ? gradkern::BatchNormPass::kBackward : gradkern::BatchNormPass::kForward;
  call.dtype = static_cast<gradkern::DType>(dtype);
  call.outer = sizes.outer;
  call.channels = sizes.channels;
  call.inner = sizes.inner;
  call.residual = &call;
  const BatchNormPlan plan(call, limits);
  const bool whole = plan.chunks == 1 && plan.tiles == sizes.channels;
  return plan.held && whole;
}

}  // extern "C"
