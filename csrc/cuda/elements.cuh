// Elements of every storage type, read and written sixteen bytes at a time.
#pragma once

#include "backend.h"
#include "cuda/platform.h"

namespace gradkern::cuda {

inline constexpr int kThreads = 256;

// Vectors that a thread has in flight: enough bytes to cover the latency of device memory.
inline constexpr int kInFlight = 4;

template <class T>
struct Complex {
  T real, imag;
};

template <class T>
struct StorageOf {
  using type = T;
};

// Calls visit with the storage type of a dtype. A block has one dtype, so this is no divergence.
template <class Visit>
__device__ __forceinline__ void visit_real_storage(int32_t dtype, Visit visit) {
  switch (static_cast<DType>(dtype)) {
    case DType::kFloat64:
      return visit(StorageOf<double>());
    case DType::kBFloat16:
      return visit(StorageOf<__nv_bfloat16>());
    case DType::kFloat16:
      return visit(StorageOf<__half>());
    default:
      return visit(StorageOf<float>());
  }
}

// The same for what may see the modulus of a complex number.
template <class Visit>
__device__ __forceinline__ void visit_storage(int32_t dtype, Visit visit) {
  switch (static_cast<DType>(dtype)) {
    case DType::kComplex64Modulus:
      return visit(StorageOf<Complex<float>>());
    case DType::kComplex128Modulus:
      return visit(StorageOf<Complex<double>>());
    default:
      return visit_real_storage(dtype, visit);
  }
}

// The type in which an element is compared: exact for its storage.
__device__ __forceinline__ float narrow(float x) { return x; }
__device__ __forceinline__ double narrow(double x) { return x; }
__device__ __forceinline__ float narrow(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float narrow(__half x) { return __half2float(x); }
__device__ __forceinline__ double narrow(Complex<float> z) {
  return ::sqrt(double(z.real) * z.real + double(z.imag) * z.imag);
}
__device__ __forceinline__ double narrow(Complex<double> z) { return ::hypot(z.real, z.imag); }

template <class T>
using NarrowOf = decltype(narrow(T()));

// A result in the storage's type. The 16-bit types round from float32, as torch does.
template <class Value>
__device__ __forceinline__ void round_to(Value value, float& to) {
  to = static_cast<float>(value);
}
template <class Value>
__device__ __forceinline__ void round_to(Value value, double& to) {
  to = value;
}
template <class Value>
__device__ __forceinline__ void round_to(Value value, __nv_bfloat16& to) {
  to = __float2bfloat16_rn(static_cast<float>(value));
}
template <class Value>
__device__ __forceinline__ void round_to(Value value, __half& to) {
  to = __float2half_rn(static_cast<float>(value));
}

template <class T>
struct alignas(16) Vector {
  static constexpr int kSize = 16 / sizeof(T);
  T element[kSize];
};

template <class T>
__device__ __forceinline__ bool is_aligned(const T* data) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0;
}

// One vector; from an unaligned tensor element by element, in the same order.
template <class T>
__device__ __forceinline__ Vector<T> load_vector(const T* data, int64_t vector, bool aligned) {
  if (aligned) return reinterpret_cast<const Vector<T>*>(data)[vector];
  Vector<T> v;
#pragma unroll
  for (int k = 0; k < Vector<T>::kSize; k++) v.element[k] = data[vector * Vector<T>::kSize + k];
  return v;
}

template <class T>
__device__ __forceinline__ void store_vector(T* data, int64_t vector, bool aligned,
                                             const Vector<T>& v) {
  if (aligned) {
    reinterpret_cast<Vector<T>*>(data)[vector] = v;
    return;
  }
#pragma unroll
  for (int k = 0; k < Vector<T>::kSize; k++) data[vector * Vector<T>::kSize + k] = v.element[k];
}

// Calls add(element) for the elements of this thread, in ascending order. Which they are depends on
// the index alone: vector i belongs to thread i % kThreads, and so does an incomplete last one. The
// sum of a thread is therefore the same for aligned and unaligned tensors.
template <class T, class Add>
__device__ __forceinline__ void each_element(const T* data, int64_t n, Add add) {
  constexpr int kSize = Vector<T>::kSize;
  const int64_t vectors = n / kSize;
  const bool aligned = is_aligned(data);
  int64_t i = threadIdx.x;
  for (; i + (kInFlight - 1) * kThreads < vectors; i += kInFlight * kThreads) {
    Vector<T> v[kInFlight];
#pragma unroll
    for (int j = 0; j < kInFlight; j++) v[j] = load_vector(data, i + j * kThreads, aligned);
#pragma unroll
    for (int j = 0; j < kInFlight; j++) {
#pragma unroll
      for (int k = 0; k < kSize; k++) add(v[j].element[k]);
    }
  }
  for (; i < vectors; i += kThreads) {
    const Vector<T> v = load_vector(data, i, aligned);
#pragma unroll
    for (int k = 0; k < kSize; k++) add(v.element[k]);
  }
  if (i == vectors) {
    for (int64_t k = vectors * kSize; k < n; k++) add(data[k]);
  }
}

// Replaces every element x by map(x), in place.
template <class T, class Map>
__device__ __forceinline__ void map_elements(T* data, int64_t n, Map map) {
  constexpr int kSize = Vector<T>::kSize;
  const int64_t vectors = n / kSize;
  const bool aligned = is_aligned(data);
  int64_t i = threadIdx.x;
  for (; i + (kInFlight - 1) * kThreads < vectors; i += kInFlight * kThreads) {
    // All loads before the first store: the compiler may not move them past it.
    Vector<T> v[kInFlight];
#pragma unroll
    for (int j = 0; j < kInFlight; j++) v[j] = load_vector(data, i + j * kThreads, aligned);
#pragma unroll
    for (int j = 0; j < kInFlight; j++) {
#pragma unroll
      for (int k = 0; k < kSize; k++) v[j].element[k] = map(v[j].element[k]);
      store_vector(data, i + j * kThreads, aligned, v[j]);
    }
  }
  for (; i < vectors; i += kThreads) {
    Vector<T> v = load_vector(data, i, aligned);
#pragma unroll
    for (int k = 0; k < kSize; k++) v.element[k] = map(v.element[k]);
    store_vector(data, i, aligned, v);
  }
  if (i == vectors) {
    for (int64_t k = vectors * kSize; k < n; k++) data[k] = map(data[k]);
  }
}

}  // namespace gradkern::cuda
