#include "engine/fiber.h"

#include "engine/fiber_switch.h"

namespace simt {

void Fiber::adopt_current_stack() {
  stack_ = Stack{};
#ifdef SIMT_TSAN
  tsan_fiber_ = __tsan_get_current_fiber();
#endif
}

void Fiber::restart(const Stack& stack, void (*entry)()) {
  stack_ = stack;
  stack_pointer_ = fresh_stack(stack.top(), entry);
#ifdef SIMT_TSAN
  // Kept while its stack is: what ran on the stack before would look like a race with what runs
  // next, and making one takes GCC's runtime a millisecond.
  if (tsan_fiber_ == nullptr) tsan_fiber_ = __tsan_create_fiber(0);
#endif
#ifdef SIMT_ASAN
  // A fiber that was abandoned by a failed launch left the red zones of its frames behind.
  fake_stack_ = nullptr;
  __asan_unpoison_memory_region(stack.bottom, stack.size);
#endif
}

void Fiber::switch_stacks(Fiber& from, Fiber& to, [[maybe_unused]] bool from_is_done) {
#ifdef SIMT_ASAN
  __sanitizer_start_switch_fiber(from_is_done ? nullptr : &from.fake_stack_, to.stack_.bottom,
                                 to.stack_.size);
#endif
#ifdef SIMT_TSAN
  __tsan_switch_to_fiber(to.tsan_fiber_, kUnordered);
#endif
  simt_switch_stack(&from.stack_pointer_, to.stack_pointer_);
#ifdef SIMT_ASAN
  __sanitizer_finish_switch_fiber(from.fake_stack_, nullptr, nullptr);
#endif
}

}  // namespace simt
