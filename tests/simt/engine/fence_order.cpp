#include "engine/fence_order.h"

#ifdef SIMT_TSAN

namespace simt {
namespace {

// Whatever is ordered before an acquire of `from` is now also ordered before an acquire of `to`. On
// a fiber made for it, because the running one would pass on all that it knows itself. It is made
// from the host's, since a new fiber knows what its maker knows.
void pass_on(void* from, void* to, const Fiber& host) {
  void* const running = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(host.tsan_fiber(), kUnordered);
  void* const carrier = __tsan_create_fiber(0);
  __tsan_switch_to_fiber(carrier, kUnordered);
  __tsan_acquire(from);
  __tsan_release(to);
  __tsan_switch_to_fiber(running, kUnordered);
  __tsan_destroy_fiber(carrier);
}

}  // namespace

void FenceOrder::fence() {
  if (received_) incoming_.acquire();
  published_.release();
  fenced_ = true;
}

void FenceOrder::before_atomic(void* address, const Fiber& host) {
  if (fenced_) pass_on(&published_, address, host);
}

void FenceOrder::after_atomic(void* address, const Fiber& host) {
  pass_on(address, &incoming_, host);
  received_ = true;
}

}  // namespace simt

#endif
