// What kernels and launchers need of their platform, for nvcc and for a host compiler.
//
// The same kernel source runs on a GPU and, one fiber per thread, on the CPU (tests/simt). This
// header holds everything that differs between the two.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#else
#include "simt.h"
#endif

namespace gradkern::cuda {

#if defined(__CUDACC__)

// Kernel parameters stay in constant memory (with __grid_constant__); they are not copied.
template <class T>
using KernelParameter = const T;

// An array of the block's shared memory, one for each Tag.
template <class Tag, class T, int N>
__device__ T (&shared_array()) [N] {
  __shared__ T storage[N];
  return storage;
}

// Promises that a pointer points to global memory: of one that was itself read from memory the
// compiler can't tell, and would use slower, generic instructions.
__device__ __forceinline__ void assume_global(const void* address) {
  __builtin_assume(__isGlobal(address));
}

inline void check(cudaError_t code, const char* what) {
  if (code != cudaSuccess) {
    throw std::runtime_error(std::string("gradkern: ") + what + ": " + cudaGetErrorString(code));
  }
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, void* stream,
            const Arguments&... arguments) {
  kernel<<<static_cast<unsigned>(blocks), threads, 0, static_cast<cudaStream_t>(stream)>>>(
      arguments...);
  check(cudaGetLastError(), "a kernel launch failed");
}

inline void fill_zero(void* data, size_t bytes, void* stream) {
  check(cudaMemsetAsync(data, 0, bytes, static_cast<cudaStream_t>(stream)), "a memset failed");
}

// This library's own CUDA runtime (it is linked statically) does not see torch's device guard.
inline void set_device(int device) { check(cudaSetDevice(device), "the device can't be used"); }

// Why no GPU can be used from here, or null.
inline const char* unavailable() {
  static const std::string reason = [] {
    int driver = 0, runtime = 0, devices = 0;
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
      return std::string("no NVIDIA driver is installed");
    }
    cudaRuntimeGetVersion(&runtime);
    if (driver / 1000 < runtime / 1000) {
      return "the NVIDIA driver supports CUDA " + std::to_string(driver / 1000) + "." +
             std::to_string(driver % 1000 / 10) + "; these kernels need CUDA " +
             std::to_string(runtime / 1000);
    }
    const cudaError_t code = cudaGetDeviceCount(&devices);
    return code == cudaSuccess && devices > 0
               ? std::string()
               : "no GPU is visible: " + std::string(cudaGetErrorString(code));
  }();
  return reason.empty() ? nullptr : reason.c_str();
}

inline constexpr char kBackendName[] = "cuda";

#else

// By reference: 32 KiB of parameters need not be copied for every fiber.
template <class T>
using KernelParameter = const T&;

template <class Tag, class T, int N>
T (&shared_array())
[N] {
  static char key;
  return *static_cast<T(*)[N]>(simt::shared_static(&key, sizeof(T) * N, __PRETTY_FUNCTION__));
}

inline void assume_global(const void*) {}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, void*,
            const Arguments&... arguments) {
  simt::launch(dim3(static_cast<unsigned>(blocks)), dim3(threads), 0,
               [&] { kernel(arguments...); });
}

inline void fill_zero(void* data, size_t bytes, void*) { std::memset(data, 0, bytes); }
inline void set_device(int) {}
inline const char* unavailable() { return nullptr; }
inline constexpr char kBackendName[] = "simt";

#endif

}  // namespace gradkern::cuda
