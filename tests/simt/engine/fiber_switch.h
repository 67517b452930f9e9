// Changing stacks: the one thing that C++ cannot say.
#pragma once

#pragma GCC visibility push(hidden)

extern "C" {

// Saves the registers that a call must preserve on the running stack, stores the stack pointer at
// `*suspended`, and returns from the call in which the stack `resumed` was suspended.
void simt_switch_stack(void** suspended, void* resumed);
}

namespace simt {

// Makes the stack that ends at `top` (16-byte aligned) look as if it had been suspended just before
// its first call, of `entry`, which must not return. Returns the pointer to resume it with.
void* fresh_stack(void* top, void (*entry)());

}  // namespace simt

#pragma GCC visibility pop
