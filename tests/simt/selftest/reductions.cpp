// Correct reductions, and the same with a barrier missing.
#include "selftest/report.h"
#include "shared_array.h"

namespace {

__device__ float warp_sum(float value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    value += __shfl_down_sync(0xffffffffu, value, distance);
  }
  return value;
}

// The sum of the block's values, in thread 0. Without the first barrier a fast warp overwrites what
// the first warp still reads from the call before; without the second the first warp reads what the
// others have not written yet.
template <bool kBarrierBefore, bool kBarrierBehind>
__device__ float block_sum(float value) {
  struct Parts;
  float (&parts)[32] = simt::shared_array<Parts, float, 32>("parts");
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  value = warp_sum(value);
  if (kBarrierBefore) __syncthreads();
  if (lane == 0) parts[warp] = value;
  if (kBarrierBehind) __syncthreads();
  if (warp == 0) value = warp_sum(lane < blockDim.x / 32 ? parts[lane] : 0.0f);
  return value;
}

// Per block the sum of a and the sum of b, one after the other through the same shared array.
template <bool kBarrierBefore, bool kBarrierBehind>
__global__ void two_sums(const float* __restrict__ a, const float* __restrict__ b, float* sums) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  const float sum_a = block_sum<kBarrierBefore, kBarrierBehind>(a[i]);
  const float sum_b = block_sum<kBarrierBefore, kBarrierBehind>(b[i]);
  if (threadIdx.x == 0) {
    sums[2 * blockIdx.x] = sum_a;
    sums[2 * blockIdx.x + 1] = sum_b;
  }
}

// The norm of all: each block leaves its part, the last to do so adds them up in order.
__global__ void __launch_bounds__(256)
    norm(const float* __restrict__ x, int numel, float* parts, unsigned* ticket, float* result) {
  struct IsLast;
  bool (&is_last)[1] = simt::shared_array<IsLast, bool, 1>("is_last");
  float sum = 0;
  const int stride = static_cast<int>(gridDim.x * blockDim.x);
  for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); i < numel; i += stride) {
    const float value = __ldg(x + i);
    sum += value * value;
  }
  sum = block_sum<true, true>(sum);
  if (threadIdx.x == 0) {
    parts[blockIdx.x] = sum;
    __threadfence();
    is_last[0] = atomicAdd(ticket, 1u) == gridDim.x - 1;
    __threadfence();
  }
  __syncthreads();
  if (!is_last[0]) return;
  if (threadIdx.x == 0) {
    float total = 0;
    for (unsigned i = 0; i < gridDim.x; ++i) total += __ldcg(parts + i);
    *result = sqrtf(total);
    atomicExch(ticket, 0u);
  }
}

}  // namespace

extern "C" {

// missing: 0 nothing, 1 the barrier before the shared array is written, 2 the one behind.
int selftest_two_sums(int missing, const float* a, const float* b, unsigned blocks,
                      unsigned threads, float* sums) {
  return selftest::report([&] {
    simt::launch(blocks, threads, 0, [&] {
      switch (missing) {
        case 0:
          return two_sums<true, true>(a, b, sums);
        case 1:
          return two_sums<false, true>(a, b, sums);
        default:
          return two_sums<true, false>(a, b, sums);
      }
    });
  });
}

int selftest_norm(const float* x, int numel, unsigned blocks, float* parts, unsigned* ticket,
                  float* result) {
  return selftest::report(
      [&] { simt::launch(blocks, 256, 0, [&] { norm(x, numel, parts, ticket, result); }); });
}
}
