#include "engine/fiber_switch.h"

#include <cstdint>
#include <cstring>

// The floating-point control words are preserved across calls too, but kernels cannot change them,
// so all fibers share those of the thread that launched.
#if defined(__x86_64__)

asm(R"(
.text
.globl simt_switch_stack
.hidden simt_switch_stack
.type simt_switch_stack, @function
.balign 16
simt_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch_stack, .-simt_switch_stack
)");

namespace simt {

void* fresh_stack(void* top, void (*entry)()) {
  constexpr int kSaved = 6;
  // At the entry of a function the stack pointer is 8 off a multiple of 16, and points to the
  // return address: a null one ends the backtraces of debuggers.
  void** sp = static_cast<void**>(top);
  *--sp = nullptr;
  *--sp = reinterpret_cast<void*>(entry);
  sp -= kSaved;
  std::memset(sp, 0, kSaved * sizeof(void*));
  return sp;
}

}  // namespace simt

#elif defined(__aarch64__)

asm(R"(
.text
.globl simt_switch_stack
.hidden simt_switch_stack
.type simt_switch_stack, %function
.balign 16
simt_switch_stack:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x2, sp
  str x2, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size simt_switch_stack, .-simt_switch_stack
)");

namespace simt {

void* fresh_stack(void* top, void (*entry)()) {
  constexpr int kFrame = 160, kLinkRegister = 88;
  char* const sp = static_cast<char*>(top) - kFrame;
  std::memset(sp, 0, kFrame);
  std::memcpy(sp + kLinkRegister, &entry, sizeof(entry));
  return sp;
}

}  // namespace simt

#else
#error "write simt_switch_stack for this architecture: save what its calling convention preserves"
#endif

// Without this note the linker would make every stack of the process executable.
asm(".section .note.GNU-stack, \"\", %progbits\n.text");
