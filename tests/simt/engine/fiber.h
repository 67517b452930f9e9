// A stack on which code runs until it hands over to another, and is resumed where it stopped.
#pragma once

#include "engine/sanitizers.h"
#include "engine/stack_arena.h"

#pragma GCC visibility push(hidden)

namespace simt {

class Fiber {
 public:
  // The stack that called `adopt_current_stack` becomes a fiber among the others.
  void adopt_current_stack();

  // Forgets what ran on the fiber, if anything, and lets it begin with `entry` when it is next
  // switched to. `entry` calls `entered` first and never returns.
  void restart(const Stack& stack, void (*entry)());
  static void entered(Fiber& host);

  // Suspends `from`, the running fiber, and resumes `to`. Does not return if `from_is_done`, which
  // frees what a sanitizer keeps for it.
  static void switch_stacks(Fiber& from, Fiber& to, bool from_is_done = false);

  // What has run on this suspended fiber is ordered before an acquire of `end`, though it never
  // will have got there; the calls it was in are forgotten. For the running fiber, `host`, to call.
  void abandon(const Fiber& host, HappensBefore& end);

  const Stack& stack() const { return stack_; }

#ifdef SIMT_TSAN
  void* tsan_fiber() const { return tsan_fiber_; }
#endif

 private:
  void* stack_pointer_ = nullptr;
  Stack stack_;
#ifdef SIMT_TSAN
  void* tsan_fiber_ = nullptr;
#endif
#ifdef SIMT_ASAN
  void* fake_stack_ = nullptr;
#endif
};

inline void Fiber::entered([[maybe_unused]] Fiber& host) {
#ifdef SIMT_ASAN
  // Only here does AddressSanitizer tell the bounds of the stack that was left; the first to be
  // left in a launch is the host's.
  const void* bottom;
  std::size_t size;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
  if (host.stack_.bottom == nullptr) {
    host.stack_ = Stack{static_cast<char*>(const_cast<void*>(bottom)), size};
  }
#endif
}

inline void Fiber::abandon([[maybe_unused]] const Fiber& host,
                           [[maybe_unused]] HappensBefore& end) {
#ifdef SIMT_TSAN
  __tsan_switch_to_fiber(tsan_fiber_, kUnordered);
  end.release();
  __tsan_switch_to_fiber(host.tsan_fiber_, kUnordered);
#endif
}

}  // namespace simt

#pragma GCC visibility pop
