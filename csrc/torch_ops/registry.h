// What the Python module may ask of the operator library: the CPU's kernels on torch's threads, and
// the loading of backends. Plain C++ without torch types, exported from the shared library.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend.h"

namespace gradkern::registry {

#define GRADKERN_EXPORT __attribute__((visibility("default")))

// torch's own thread pool: torch.set_num_threads holds, and no second OpenMP runtime is loaded.
GRADKERN_EXPORT const Executor& executor();

// The backend that serves CPU memory.
GRADKERN_EXPORT const Backend& cpu_backend();

// The instruction set in use, and those this machine could use (null-terminated, slowest first).
GRADKERN_EXPORT const char* cpu_isa();
GRADKERN_EXPORT const char* const* runnable_isas();

// Loads a shared library that exports `gradkern_backend` and registers its table under `name`; the
// one named "cuda" serves CUDA tensors from then on. Returns why it can't be used, or "".
GRADKERN_EXPORT const char* load(const char* name, const char* path);

// Serves CPU tensors with the named backend instead of the CPU's own ("cpu" restores it): how the
// tests run the CUDA kernels' source, compiled for the host, through both front doors.
GRADKERN_EXPORT void serve_cpu_with(const char* name);

// Reads every byte on all threads (cpu/kernels.h).
GRADKERN_EXPORT uint64_t read_all(const void* data, size_t bytes);

}  // namespace gradkern::registry
