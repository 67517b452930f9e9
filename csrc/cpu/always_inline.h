// For what runs in an inner loop: where a kernel has two loops, GCC 12 makes some of it calls,
// through memory.
#pragma once

#define GRADKERN_INLINE inline __attribute__((always_inline))
