// What the CUDA vocabulary (cuda_*.h) asks of the engine. Kernels don't call this themselves, but
// for `launch` and the shared memory, which no C++ compiler knows how to spell as CUDA does.
#pragma once

#include <vector_types.h>

#include <cstddef>
#include <cstdint>

#include "source_line.h"

// Hidden: two libraries that each contain an engine may live in one process, and access to a hidden
// variable needs no indirection, which counts for threadIdx.
#pragma GCC visibility push(hidden)

// The coordinates of the running thread. The engine sets them whenever it switches threads; they
// are variables rather than functions because that is how CUDA spells them.
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;
inline constexpr int warpSize = 32;

namespace simt {

extern unsigned lane_index;  // of the running thread in its warp

enum class BarrierKind { kSync, kCount, kAnd, kOr };
enum class WarpOperation { kSync, kShuffle, kVote, kMatch };

// Waits until every thread of the block is here. Returns the votes of all combined as `kind` says.
int block_barrier(BarrierKind kind, bool predicate, SourceLine where);

// Waits until every lane in `mask` is here. Returns the bits that `source` deposited (kShuffle: all
// ones if `source` is not in the mask, undefined on a GPU), the lanes that deposited a value other
// than 0 (kVote), or the lanes that deposited the caller's own value (kMatch).
std::uint64_t warp_collective(WarpOperation operation, unsigned mask, std::uint64_t value,
                              unsigned source, SourceLine where);

// The block's own array for `key`, the address of any static object; `name` is for messages. Filled
// with 0xff (NaN, -1) when the block starts.
void* shared_static(const void* key, std::size_t bytes, const char* name = "a shared array");

// The launch's dynamic shared memory, filled likewise.
void* shared_dynamic();

// Points at which another thread may be scheduled, and from which ThreadSanitizer learns what
// orders memory accesses.
void fence();
void before_atomic(void* address);
void after_atomic(void* address);
void yield();

// Ends the launch with an Error at the running thread.
[[noreturn]] void fail(SourceLine where, const char* format, ...)
    __attribute__((format(printf, 2, 3), cold));

// A kernel with its arguments bound.
struct KernelCall {
  void (*call)(const void* kernel);
  const void* kernel;
};
void launch(dim3 grid, dim3 block, std::size_t dynamic_shared_bytes, KernelCall kernel);

// Runs `kernel()` once for each thread of the grid, each on a stack of its own, and returns when
// all have finished. Throws simt::Error for whatever the engine detects (README.md lists it); the
// engine is then as fresh as before, and the kernel's memory as the threads left it.
template <class Kernel>
void launch(dim3 grid, dim3 block, std::size_t dynamic_shared_bytes, Kernel kernel) {
  const auto call = [](const void* bound) { (*static_cast<const Kernel*>(bound))(); };
  launch(grid, block, dynamic_shared_bytes, KernelCall{call, &kernel});
}

}  // namespace simt

#pragma GCC visibility pop
