// Who is the last block to arrive.
#pragma once

#include "cuda/block_merge.cuh"
#include "cuda/platform.h"

namespace gradkern::cuda {

// Whether this block is the last of `expected` to arrive at the counter. What the blocks before it
// wrote in their thread 0 is then visible to all its threads.
template <class Tag>
__device__ bool is_last_block(unsigned* counter, int64_t expected) {
  bool last = false;
  if (threadIdx.x == 0) {
    __threadfence();  // This block's results before its ticket.
    last = atomicAdd(counter, 1u) == static_cast<unsigned>(expected - 1);
    __threadfence();  // The other blocks' tickets before their results.
  }
  return broadcast<Tag>(last);
}

}  // namespace gradkern::cuda
