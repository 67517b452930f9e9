// The qualifiers of kernel source. CUDA's own <vector_types.h> already makes __global__,
// __device__, __host__, __constant__, __grid_constant__, __align__ and __forceinline__ fit for a
// host compiler; here are those it leaves undefined, and one that it defines wrongly for our
// purpose.
#pragma once

#include <vector_types.h>

#ifndef __launch_bounds__
#define __launch_bounds__(...)
#endif

// On the host CUDA's headers define __shared__ as nothing, so that a shared array would silently
// become an array of each thread, and kernels would fail in puzzling ways.
#undef __shared__
#define __shared__ _Pragma("GCC error \"__shared__ does nothing here: use simt::shared_static\"")
