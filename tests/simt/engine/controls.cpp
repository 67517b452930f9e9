// The engine's controls, as C functions for whoever loads the library.
#include <cstdint>

#include "engine/scheduler.h"

extern "C" {

// Sets how the launches to come are scheduled: policy 0 in order, 1 reverse, 2 random, 3 sprint;
// resident_blocks at once (0: as many as the engine has stacks for). Returns 0, or -1 and changes
// nothing if there is no such policy.
__attribute__((visibility("default"))) int simt_configure(int policy, std::uint64_t seed,
                                                          unsigned resident_blocks) {
  if (policy < 0 || policy >= simt::kPolicyCount) return -1;
  simt::Scheduler::instance().configure({static_cast<simt::Policy>(policy), seed, resident_blocks});
  return 0;
}

// Writes the seven counters since the last reset: launches, blocks, switches between threads, block
// barriers, warp operations (of one thread each), atomics, and the most bytes of shared memory that
// any block had.
__attribute__((visibility("default"))) void simt_statistics(std::uint64_t* counters) {
  const simt::Statistics s = simt::Scheduler::instance().statistics();
  const std::uint64_t all[] = {s.launches,        s.blocks,  s.switches,    s.barriers,
                               s.warp_operations, s.atomics, s.shared_bytes};
  for (const std::uint64_t counter : all) *counters++ = counter;
}

__attribute__((visibility("default"))) void simt_reset_statistics() {
  simt::Scheduler::instance().reset_statistics();
}
}
