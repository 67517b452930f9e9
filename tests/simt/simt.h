// Run CUDA C++ kernels on the CPU: include this in place of <cuda_runtime.h> when a host compiler
// compiles kernel source. README.md says what that finds and how a kernel is written for it.
#pragma once

#ifdef __CUDACC__
#error "simt.h is for host compilers: nvcc compiles kernels for the GPU"
#endif

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda_atomics.h"
#include "cuda_math.h"
#include "cuda_memory.h"
#include "cuda_qualifiers.h"
#include "cuda_sync.h"
#include "engine.h"
#include "error.h"
