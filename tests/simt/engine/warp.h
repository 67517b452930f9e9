// The collectives of a warp: shuffles, votes, matches, __syncwarp.
#pragma once

#include <cstdint>

#include "engine.h"
#include "engine/sanitizers.h"

#pragma GCC visibility push(hidden)

namespace simt {

class Warp {
 public:
  // Begins anew with the lanes of `lanes`, the others don't exist (a block need not fill its
  // warps).
  void restart(std::uint32_t lanes);

  // A lane exits. Fails if others wait for it.
  void exit(unsigned lane);

  // Lane `lane` arrives at a collective. Returns the lanes that can go on: none until it is the
  // last of `mask`, then all of `mask`. Fails if it can't complete whatever the other lanes do.
  std::uint32_t arrive(WarpOperation operation, std::uint32_t mask, unsigned lane,
                       std::uint64_t value, unsigned source, SourceLine where);

  // What the collective that the lane took part in last gave it.
  std::uint64_t result(unsigned lane) const { return result_[lane]; }

  // What orders memory at __syncwarp. Two in turn: a lane that is fast enough to arrive at the next
  // one must not look to a slow lane as if it had been ordered by this one.
  HappensBefore& order() { return order_[synced_ & 1]; }

 private:
  // Lanes that wait for each other.
  struct Group {
    WarpOperation operation;
    std::uint32_t mask;
    std::uint32_t arrived;
    SourceLine where;
  };

  Group& group_of(WarpOperation operation, std::uint32_t mask, unsigned lane, SourceLine where);
  void complete(const Group& group);

  std::uint32_t alive_ = 0;
  int groups_ = 0;
  unsigned synced_ = 0;
  Group group_[warpSize];  // those that are incomplete; no two share an arrived lane
  std::uint64_t value_[warpSize], result_[warpSize];
  std::uint8_t source_[warpSize];
  HappensBefore order_[2];
};

// "a shuffle", for messages.
const char* name_of(WarpOperation operation);

}  // namespace simt

#pragma GCC visibility pop
