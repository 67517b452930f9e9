// engine.h, as calls to the scheduler.
#include "engine.h"

#include <cstdarg>
#include <cstdio>

#include "engine/scheduler.h"

namespace simt {

int block_barrier(BarrierKind kind, bool predicate, SourceLine where) {
  return Scheduler::instance().barrier(kind, predicate, where);
}

std::uint64_t warp_collective(WarpOperation operation, unsigned mask, std::uint64_t value,
                              unsigned source, SourceLine where) {
  return Scheduler::instance().collective(operation, mask, value, source, where);
}

void* shared_static(const void* key, std::size_t bytes, const char* name) {
  return Scheduler::instance().shared_array(key, bytes, name);
}

void* shared_dynamic() { return Scheduler::instance().shared_dynamic(); }
void fence() { Scheduler::instance().fence(); }
void before_atomic(void* address) { Scheduler::instance().before_atomic(address); }
void after_atomic(void* address) { Scheduler::instance().after_atomic(address); }
void yield() { Scheduler::instance().yield(); }

void fail(SourceLine where, const char* format, ...) {
  char message[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof(message), format, arguments);
  va_end(arguments);
  Scheduler::instance().fail(message, where);
}

void launch(dim3 grid, dim3 block, std::size_t dynamic_shared_bytes, KernelCall kernel) {
  Scheduler::instance().launch(grid, block, dynamic_shared_bytes, kernel);
}

}  // namespace simt
