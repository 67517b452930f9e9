// __syncthreads and its voting variants.
#pragma once

#include "engine.h"
#include "engine/sanitizers.h"

#pragma GCC visibility push(hidden)

namespace simt {

class Barrier {
 public:
  void restart();

  // One more of the block's `threads` arrives. True if it is the last; the others can go on then.
  // Fails if others wait at another barrier: a GPU would let them pass each other, or hang.
  bool arrive(BarrierKind kind, bool predicate, unsigned threads, SourceLine where);

  // The combined votes of the barrier that was last complete.
  int result() const { return result_; }

  unsigned waiting() const { return waiting_; }
  SourceLine where() const { return where_; }

  // What orders memory at the barrier that threads arrive at now (see Warp::order).
  HappensBefore& order() { return order_[completed_ & 1]; }

 private:
  unsigned waiting_ = 0;
  BarrierKind kind_ = BarrierKind::kSync;
  SourceLine where_;
  int in_favour_ = 0;
  int result_ = 0;
  unsigned completed_ = 0;
  HappensBefore order_[2];
};

}  // namespace simt

#pragma GCC visibility pop
