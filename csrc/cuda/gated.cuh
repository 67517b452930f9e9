// Gated activations, over rows of vectors: the last one of a row need not be whole. Bytes moved:
// each input read once, each output written once, sixteen bytes at a time.
#pragma once

#include "cuda/activation.cuh"
#include "cuda/elements.cuh"
#include "cuda/platform.h"
#include "formulas/gated_activations.h"
#include "gated_call.h"

namespace gradkern::cuda {

struct GatedParameters {
  GatedCall call;
  int64_t vectors;  // of a row
  int64_t chunk;    // vectors of a block
};

// The vectors of a thread, one after the other.
class RowWalk {
 public:
  __device__ RowWalk(const GatedParameters& p, int64_t begin, int64_t end)
      : index_(begin + threadIdx.x),
        end_(end),
        vectors_(p.vectors),
        row_(index_ / vectors_),
        vector_(index_ % vectors_),
        row_step_(kThreads / vectors_),
        vector_step_(kThreads % vectors_) {}

  __device__ bool has_next() const { return index_ < end_; }
  __device__ int64_t row() const { return row_; }
  __device__ int64_t vector() const { return vector_; }

  __device__ void advance() {
    index_ += kThreads;
    row_ += row_step_;
    vector_ += vector_step_;
    if (vector_ >= vectors_) {
      vector_ -= vectors_;
      row_++;
    }
  }

 private:
  int64_t index_, end_, vectors_, row_, vector_, row_step_, vector_step_;
};

// Whether all whole vectors of the operands are aligned.
template <class T, int kIn, int kOut>
__device__ __forceinline__ bool are_aligned(const GatedCall& call) {
  constexpr int64_t kSize = Vector<T>::kSize;
  bool aligned = true;
#pragma unroll
  for (int k = 0; k < kIn; k++) {
    aligned = aligned && is_aligned(static_cast<const T*>(call.in[k]));
    aligned = aligned && (call.rows == 1 || call.in_stride[k] % kSize == 0);
  }
#pragma unroll
  for (int k = 0; k < kOut; k++) {
    aligned = aligned && is_aligned(static_cast<const T*>(call.out[k]));
    aligned = aligned && (call.rows == 1 || call.out_stride[k] % kSize == 0);
  }
  return aligned;
}

// Occupancy: 4 blocks on an SM, 3 for double.
template <class Formula, GatedPass kPass, class T>
__global__ void __launch_bounds__(kThreads, kActivationBlocks<T>)
    gated_kernel(const __grid_constant__ KernelParameter<GatedParameters> p) {
  constexpr int kIn = inputs_of(kPass), kOut = outputs_of(kPass), kSize = Vector<T>::kSize;
  const GatedCall& call = p.call;
  const bool aligned = are_aligned<T, kIn, kOut>(call);
  const int64_t all = call.rows * p.vectors;
  for (int64_t begin = blockIdx.x * p.chunk; begin < all; begin += gridDim.x * p.chunk) {
    const int64_t left = all - begin;
    RowWalk walk(p, begin, begin + (left < p.chunk ? left : p.chunk));
#pragma unroll 1
    for (; walk.has_next(); walk.advance()) {
      const int64_t column = walk.vector() * kSize, count = call.columns - column;
      Vector<T> v[kIn], w[kOut];
#pragma unroll
      for (int k = 0; k < kIn; k++) {
        const T* row = static_cast<const T*>(call.in[k]) + walk.row() * call.in_stride[k];
        v[k] = load_some(row + column, count, aligned, zero<T>());
      }
#pragma unroll
      for (int e = 0; e < kSize; e++) {
        if constexpr (kPass == GatedPass::kValue) {
          round_to(Formula::value(narrow(v[0].element[e]), narrow(v[1].element[e])),
                   w[0].element[e]);
        } else {
          const auto gradients = Formula::backward(narrow(v[0].element[e]), narrow(v[1].element[e]),
                                                   narrow(v[2].element[e]));
          round_to(gradients.gate, w[0].element[e]);
          round_to(gradients.up, w[1].element[e]);
        }
      }
#pragma unroll
      for (int k = 0; k < kOut; k++) {
        T* row = static_cast<T*>(call.out[k]) + walk.row() * call.out_stride[k];
        store_some(row + column, count, aligned, w[k]);
      }
    }
  }
}

}  // namespace gradkern::cuda
