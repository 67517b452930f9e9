// The qualifiers that let the same formula be compiled by nvcc for the device and by a host
// compiler.
#pragma once

#if defined(__CUDACC__)
#define GRADKERN_FORMULA __host__ __device__ __forceinline__
#define GRADKERN_FORMULA_CALL inline __host__ __device__ __noinline__
#else
#define GRADKERN_FORMULA inline __attribute__((always_inline))
#define GRADKERN_FORMULA_CALL inline
#endif
