#include "engine/memory_faults.h"

#include <pthread.h>
#include <signal.h>
#include <ucontext.h>

#include <cstdint>

#include "engine.h"
#include "engine/sanitizers.h"
#include "engine/scheduler.h"

namespace simt {
namespace {

// Of the launch in progress; there is never more than one.
pthread_t launching_thread;
struct sigaction previous_segv, previous_bus;
stack_t previous_stack;
const void* fault_address;

// The handler needs a stack of its own: the fiber's may be what is used up.
alignas(16) char handler_stack[64 << 10];

// Runs on the faulting fiber in place of the kernel, whose frames are abandoned.
[[noreturn]] void report_fault() {
  const Stack& stack = Scheduler::instance().running()->fiber.stack();
  if (StackArena::in_guard(stack, fault_address)) {
    fail({}, "the thread's stack overflowed (%zu KiB)", stack.size >> 10);
  }
  fail({}, "accessed unreadable memory at %p", fault_address);
}

// Makes the interrupted code continue at the start of `function`, on the stack that ends at `top`.
void divert(ucontext_t* context, void (*function)(), char* top) {
#if defined(__x86_64__)
  // As if called: the slot of the return address lies at the top.
  context->uc_mcontext.gregs[REG_RSP] = reinterpret_cast<greg_t>(top - sizeof(void*));
  context->uc_mcontext.gregs[REG_RIP] = reinterpret_cast<greg_t>(function);
#elif defined(__aarch64__)
  context->uc_mcontext.sp = reinterpret_cast<std::uintptr_t>(top);
  context->uc_mcontext.pc = reinterpret_cast<std::uintptr_t>(function);
#else
#error "set the stack pointer and the program counter of this architecture"
#endif
}

void handle(int signal, siginfo_t* info, void* context) {
  const Thread* const thread = Scheduler::instance().running();
  if (thread == nullptr || !pthread_equal(pthread_self(), launching_thread)) {
    // Not a kernel's: the instruction faults again, under the handler that was there before.
    sigaction(signal, signal == SIGSEGV ? &previous_segv : &previous_bus, nullptr);
    return;
  }
  fault_address = info->si_addr;
  divert(static_cast<ucontext_t*>(context), &report_fault, thread->fiber.stack().top());
}

}  // namespace

MemoryFaultTrap::MemoryFaultTrap() {
  if (kSanitized) return;
  launching_thread = pthread_self();
  stack_t stack{};
  stack.ss_sp = handler_stack;
  stack.ss_size = sizeof(handler_stack);
  sigaltstack(&stack, &previous_stack);
  struct sigaction action{};
  action.sa_sigaction = &handle;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  sigaction(SIGSEGV, &action, &previous_segv);
  sigaction(SIGBUS, &action, &previous_bus);
}

MemoryFaultTrap::~MemoryFaultTrap() {
  if (kSanitized) return;
  sigaction(SIGSEGV, &previous_segv, nullptr);
  sigaction(SIGBUS, &previous_bus, nullptr);
  sigaltstack(&previous_stack, nullptr);
}

}  // namespace simt
