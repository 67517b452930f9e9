// The threads of the GPU that is emulated, and the blocks they form.
#pragma once

#include <vector_types.h>

#include <cstdint>
#include <vector>

#include "engine/barrier.h"
#include "engine/fence_order.h"
#include "engine/fiber.h"
#include "engine/shared_memory.h"
#include "engine/warp.h"
#include "source_line.h"

#pragma GCC visibility push(hidden)

namespace simt {

enum class ThreadState { kReady, kAtBarrier, kAtWarpOperation, kDone };

struct Block;

struct Thread {
  Fiber fiber;
  Block* block;
  Warp* warp;
  uint3 index;           // threadIdx
  std::uint32_t number;  // among all threads that are resident, as the ready queue knows it
  unsigned linear;       // in the block
  unsigned lane;
  ThreadState state;
  SourceLine waits_at;
  FenceOrder fences;
};

// A slot for a block: when one has finished, the next starts in its place.
struct Block {
  uint3 index;          // blockIdx
  std::uint32_t first;  // number of its first thread
  unsigned size;
  unsigned alive;  // threads that have not exited
  Barrier barrier;
  SharedMemory shared;
  std::vector<Warp> warps;
};

}  // namespace simt

#pragma GCC visibility pop
