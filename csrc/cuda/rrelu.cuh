// RReLU with random slopes: one block for each chunk of a tensor. Bytes moved: each input read
// once, the output written once, sixteen bytes at a time.
#pragma once

#include "cuda/elements.cuh"
#include "cuda/platform.h"
#include "formulas/random_slope.h"
#include "rrelu_call.h"

namespace gradkern::cuda {

struct RreluParameters {
  RreluCall call;
  int64_t chunk;  // a multiple of kSlopesAtOnce
};

// Occupancy: 4 blocks on an SM.
template <RreluPass kPass, class T>
__global__ void __launch_bounds__(kThreads, 4)
    rrelu_kernel(const __grid_constant__ KernelParameter<RreluParameters> p) {
  using Narrow = NarrowOf<T>;
  constexpr int kIn = inputs_of(kPass), kAtOnce = formulas::kSlopesAtOnce;
  const RreluCall& call = p.call;
  // Scalar: once for each thread.
  const auto seed = static_cast<uint64_t>(*call.seed);
  const formulas::RandomSlope<Narrow> slope(call.lower, call.upper);
  const int64_t chunks = call.numel / p.chunk + (call.numel % p.chunk != 0);
  for (int64_t chunk = blockIdx.x; chunk < chunks; chunk += gridDim.x) {
    const int64_t begin = chunk * p.chunk, left = call.numel - begin;
    Operands<T, kIn, 1> operands;
#pragma unroll
    for (int k = 0; k < kIn; k++) operands.in[k] = static_cast<const T*>(call.in[k]) + begin;
    operands.out[0] = static_cast<T*>(call.out) + begin;
    const auto first = static_cast<uint64_t>(begin) / kAtOnce;
    map_operands<1>(
        operands, left < p.chunk ? left : p.chunk, [&](int64_t i, const T(&x)[kIn], T(&y)[1]) {
          // The same for kAtOnce elements: the compiler makes one call of it.
          const formulas::Philox4x32 random(first + static_cast<uint64_t>(i) / kAtOnce, seed);
          const Narrow s = slope.of(random.word[i % kAtOnce]);
          if constexpr (kPass == RreluPass::kValue) {
            round_to(formulas::rectified(narrow(x[0]), s).value, y[0]);
          } else {
            round_to(narrow(x[0]) * formulas::rectified(narrow(x[1]), s).derivative, y[0]);
          }
        });
  }
}

}  // namespace gradkern::cuda
