// Elements of every storage type, read and written sixteen bytes at a time.
#pragma once

#include "backend.h"
#include "cuda/launch_plan.h"
#include "cuda/platform.h"

namespace gradkern::cuda {

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
__device__ __forceinline__ T zero() {
  T x;
  round_to(0.0f, x);
  return x;
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

// One vector; from an unaligned tensor element by element, in the same order. (A comment that
// begins with `Scalar:` tells tests/kernel_checks which accesses below it may be narrower than 16
// bytes.)
template <class T>
__device__ __forceinline__ Vector<T> load_vector(const T* data, int64_t vector, bool aligned) {
  if (aligned) return reinterpret_cast<const Vector<T>*>(data)[vector];
  Vector<T> v;
  // Scalar: unaligned.
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
  // Scalar: unaligned.
#pragma unroll
  for (int k = 0; k < Vector<T>::kSize; k++) data[vector * Vector<T>::kSize + k] = v.element[k];
}

// One vector, of which `count` elements are there.
template <class T>
__device__ __forceinline__ Vector<T> load_some(const T* data, int64_t count, bool aligned, T pad) {
  constexpr int kSize = Vector<T>::kSize;
  if (count >= kSize) return load_vector(data, 0, aligned);
  Vector<T> v;
  // Scalar: less than a vector is left.
#pragma unroll
  for (int k = 0; k < kSize; k++) v.element[k] = k < count ? data[k] : pad;
  return v;
}

template <class T>
__device__ __forceinline__ void store_some(T* data, int64_t count, bool aligned,
                                           const Vector<T>& v) {
  constexpr int kSize = Vector<T>::kSize;
  if (count >= kSize) return store_vector(data, 0, aligned, v);
#pragma unroll
  for (int e = 0; e < kSize; e++) {
    // Scalar: less than a vector is left.
    if (e < count) data[e] = v.element[e];
  }
}

// Calls add(element) for the elements of this thread, in ascending order. Which they are depends on
// the index alone: vector i belongs to thread i % kThreads, and so does an incomplete last one. The
// sum of a thread is therefore the same for aligned and unaligned tensors. A thread loads kAtOnce
// vectors before it adds: kInFlight, or 1 where add is heavy (map_operands says more).
template <int kAtOnce = kInFlight, class T, class Add>
__device__ __forceinline__ void each_element(const T* data, int64_t n, Add add) {
  assume_global(data);
  constexpr int kSize = Vector<T>::kSize;
  const int64_t vectors = n / kSize;
  const bool aligned = is_aligned(data);
  int64_t i = threadIdx.x;
#pragma unroll 1
  for (; i + (kAtOnce - 1) * kThreads < vectors; i += kAtOnce * kThreads) {
    Vector<T> v[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; j++) v[j] = load_vector(data, i + j * kThreads, aligned);
#pragma unroll
    for (int j = 0; j < kAtOnce; j++) {
#pragma unroll
      for (int k = 0; k < kSize; k++) add(v[j].element[k]);
    }
  }
  if constexpr (kAtOnce > 1) {
#pragma unroll 1
    for (; i < vectors; i += kThreads) {
      const Vector<T> v = load_vector(data, i, aligned);
#pragma unroll
      for (int k = 0; k < kSize; k++) add(v.element[k]);
    }
  }
  if (i == vectors) {
    // Scalar: less than a vector is left.
#pragma unroll 1
    for (int64_t k = vectors * kSize; k < n; k++) add(data[k]);
  }
}

// The operands of an elementwise loop: kIn tensors that are read, kOut that are written; an output
// may be one of the inputs.
template <class T, int kIn, int kOut>
struct Operands {
  const T* in[kIn];
  T* out[kOut];

  __device__ bool are_aligned() const {
    bool aligned = true;
#pragma unroll
    for (int k = 0; k < kIn; k++) aligned = aligned && is_aligned(in[k]);
#pragma unroll
    for (int k = 0; k < kOut; k++) aligned = aligned && is_aligned(out[k]);
    return aligned;
  }
};

// Calls map(i, x, y) for every element i, with the inputs' elements in x[kIn] and the outputs' in
// y[kOut]. A thread loads kAtOnce vectors of each input before it computes: kInFlight for
// arithmetic that is light and needs few registers, 1 for what is heavy, where many warps cover the
// latency (and each further vector is one more copy of the arithmetic to compile). The operands
// must be the kernel's own parameters, or promised to be global by the caller.
template <int kAtOnce, class T, int kIn, int kOut, class Map>
__device__ __forceinline__ void map_operands(const Operands<T, kIn, kOut>& operands, int64_t n,
                                             Map map) {
  constexpr int kSize = Vector<T>::kSize;
  const int64_t vectors = n / kSize;
  const bool aligned = operands.are_aligned();
  const auto run = [&](const Vector<T>(&v)[kIn], int64_t index) {
    Vector<T> w[kOut];
#pragma unroll
    for (int k = 0; k < kSize; k++) {
      T x[kIn], y[kOut];
#pragma unroll
      for (int o = 0; o < kIn; o++) x[o] = v[o].element[k];
      map(index * kSize + k, x, y);
#pragma unroll
      for (int o = 0; o < kOut; o++) w[o].element[k] = y[o];
    }
#pragma unroll
    for (int o = 0; o < kOut; o++) store_vector(operands.out[o], index, aligned, w[o]);
  };
  int64_t i = threadIdx.x;
#pragma unroll 1
  for (; i + (kAtOnce - 1) * kThreads < vectors; i += kAtOnce * kThreads) {
    // All loads before the first store: the compiler may not move them past it.
    Vector<T> v[kAtOnce][kIn];
#pragma unroll
    for (int j = 0; j < kAtOnce; j++) {
#pragma unroll
      for (int o = 0; o < kIn; o++) {
        v[j][o] = load_vector(operands.in[o], i + j * kThreads, aligned);
      }
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; j++) run(v[j], i + j * kThreads);
  }
  if constexpr (kAtOnce > 1) {
#pragma unroll 1
    for (; i < vectors; i += kThreads) {
      Vector<T> v[kIn];
#pragma unroll
      for (int o = 0; o < kIn; o++) v[o] = load_vector(operands.in[o], i, aligned);
      run(v, i);
    }
  }
  if (i == vectors) {
#pragma unroll 1
    for (int64_t k = vectors * kSize; k < n; k++) {
      T x[kIn], y[kOut];
      // Scalar: less than a vector is left.
#pragma unroll
      for (int o = 0; o < kIn; o++) x[o] = operands.in[o][k];
      map(k, x, y);
      // Scalar: as above.
#pragma unroll
      for (int o = 0; o < kOut; o++) operands.out[o][k] = y[o];
    }
  }
}

// Replaces every element x by map(x), in place.
template <class T, class Map>
__device__ __forceinline__ void map_elements(T* data, int64_t n, Map map) {
  assume_global(data);
  map_operands<kInFlight>(Operands<T, 1, 1>{{data}, {data}}, n,
                          [&](int64_t, const T(&x)[1], T(&y)[1]) { y[0] = map(x[0]); });
}

}  // namespace gradkern::cuda
