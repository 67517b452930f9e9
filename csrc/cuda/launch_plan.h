// How a list of tensors is cut into blocks and launches: plain arithmetic on sizes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "backend.h"

namespace gradkern::cuda {

inline constexpr int kThreads = 256;

// Vectors that a thread has in flight: enough bytes to cover the latency of device memory.
inline constexpr int kInFlight = 4;

// One tensor in a kernel's table. `first_block` counts from the table's first block.
struct TableEntry {
  void* data;
  int64_t numel;
  int64_t segment;
  uint32_t first_block;
  int32_t dtype;
};
static_assert(sizeof(TableEntry) == 32);

// The table travels in the kernel's parameters: at most 32,764 bytes of them (sm_70 and newer, CUDA
// 12.1 and newer), of which the table leaves 252 for everything else.
inline constexpr int kTableCapacity = 1016;

struct LaunchLimits {
  // Elements that one block reads. A multiple of 8, so that every chunk of an aligned tensor begins
  // at a 16-byte boundary. 32768: 128 KiB of float32, 32 vectors for each of 256 threads.
  int64_t chunk = 32768;
  int32_t tensors = kTableCapacity;
  int64_t blocks = (int64_t(1) << 31) - 1;  // gridDim.x
};

// In force for this process. Tests lower them, so that a small tensor exercises many chunks and
// several launches.
LaunchLimits& launch_limits();

// Elements of one block of an elementwise pass: what its threads have in flight at once, so that
// small tensors still fill the GPU. The limit lowers it in tests.
int64_t elementwise_chunk(DType dtype);

// One launch: `tensors` consecutive tensors from `first_tensor`, the first of them from its block
// `first_unit` on (a tensor of more blocks than a grid holds is spread over launches).
struct PlannedLaunch {
  int64_t first_tensor;
  int32_t tensors;
  int64_t first_unit;
  int64_t blocks;
  int64_t first_block;  // the launch's first block, counted over the whole plan
};

// Tensors as blocks: one block for each chunk of a whole tensor, or, where segments are smaller
// than their tensor, one block for each segment, whatever its length.
class LaunchPlan {
 public:
  LaunchPlan(TensorSpans tensors, const LaunchLimits& limits);

  const std::vector<PlannedLaunch>& launches() const { return launches_; }
  int64_t blocks() const { return blocks_; }
  // The chunk that kernels cut segments by: the limit, or more than any segment has.
  int64_t chunk() const { return chunk_; }
  bool by_segment() const { return by_segment_; }
  int64_t blocks_of(const TensorSpan& span) const;

  // Writes the table of one launch.
  void fill(const PlannedLaunch& launch, TensorSpans tensors, TableEntry* table) const;

 private:
  std::vector<PlannedLaunch> launches_;
  int64_t blocks_ = 0;
  int64_t chunk_;
  bool by_segment_ = false;
};

// How many parts of `size` there are in n, the last of them not whole. Not (n + size - 1) / size,
// which could pass 2^63.
inline int64_t parts_of(int64_t n, int64_t size) { return n / size + (n % size != 0); }

// The smallest power of two from `n` on, up to a warp.
inline int32_t threads_across(int64_t n) {
  int32_t threads = 1;
  while (threads < n && threads < 32) threads *= 2;
  return threads;
}

// Where a reduction's intermediate results lie in the workspace.
struct WorkspaceLayout {
  size_t table;     // TableEntry for each tensor, left for a clip that follows
  size_t partials;  // the fields of each block's partial result
  size_t counters;  // one for each tensor, one for all: how many blocks are done
  size_t bytes;

  // `fields`: how many float64 numbers the largest partial result has.
  WorkspaceLayout(int64_t tensors, int64_t blocks, int fields);
};

}  // namespace gradkern::cuda
