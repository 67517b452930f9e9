// What orders one thread's memory accesses before another's through fences and atomics, as
// ThreadSanitizer is told (in a plain build: nothing).
//
// Atomics are relaxed, as in PTX: one publishes only what a fence before it covered, and what it
// reads counts only after a fence behind it. Told less, TSan would report correct kernels; told
// that atomics synchronise by themselves, it would miss every forgotten __threadfence().
#pragma once

#include "engine/fiber.h"
#include "engine/sanitizers.h"

#pragma GCC visibility push(hidden)

namespace simt {

class FenceOrder {
 public:
#ifdef SIMT_TSAN
  void restart() { fenced_ = received_ = false; }
  void fence();
  void before_atomic(void* address, const Fiber& host);
  void after_atomic(void* address, const Fiber& host);

 private:
  HappensBefore published_;  // up to the last fence
  HappensBefore incoming_;   // from atomics since
  bool fenced_ = false, received_ = false;
#else
  void restart() {}
  void fence() {}
  void before_atomic(void*, const Fiber&) {}
  void after_atomic(void*, const Fiber&) {}
#endif
};

}  // namespace simt

#pragma GCC visibility pop
