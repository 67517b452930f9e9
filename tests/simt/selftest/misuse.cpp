// Kernels that do what a GPU does not survive, or what only works by luck: one for each thing that
// the engine detects.
#include <stdexcept>

#include "selftest/report.h"
#include "shared_array.h"

namespace {

struct Array;

__global__ void divergent_barrier() {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void divergent_kind() {
  // clang-format off
  if (threadIdx.x < 32) __syncthreads(); else __syncthreads_or(1);  // on one line
  // clang-format on
}

__global__ void exit_before_barrier(unsigned leaver) {
  if (threadIdx.x == leaver) return;
  __syncthreads();
}

__global__ void own_lane_missing() { __syncwarp(0xfffffffeu); }

__global__ void mask_of_absent_lanes() { __syncwarp(0xffffffffu); }

__global__ void mask_of_exited_lane(unsigned leaver) {
  if (threadIdx.x == leaver) return;
  __syncwarp();
}

__global__ void masks_that_meet() {
  __shfl_sync(threadIdx.x % 2 == 0 ? 0xffffffffu : 0xfffffffeu, 0, 0);
}

__global__ void divergent_shuffle() {
  if (threadIdx.x % 2 == 0) {
    __shfl_sync(0xffffffffu, 0, 0);
  } else {
    __shfl_sync(0xffffffffu, 0, 0);
  }
}

__global__ void bad_width(int width) { __shfl_xor_sync(0xffffffffu, 0.0f, 1, width); }

__global__ void bad_distance(unsigned delta) { __shfl_down_sync(0xffffffffu, 0.0f, delta); }

// The first lane of each warp waits for the block, the others for that lane.
__global__ void deadlock() {
  const bool first = threadIdx.x % 32 == 0;
  if (!first) __syncwarp();
  __syncthreads();
  if (first) __syncwarp();
}

__global__ void wait_for_flag(unsigned* flag, unsigned setter) {
  if (blockIdx.x * blockDim.x + threadIdx.x == setter) atomicExch(flag, 1u);
  while (atomicAdd(flag, 0u) == 0) {
  }
}

// Two arrays, of 40,000 bytes and of `second` times 4,000.
__global__ void large_shared(int second) {
  struct Small;
  simt::shared_array<Array, char, 40000>("first")[0] = 0;
  if (second == 2) simt::shared_array<Small, char, 8000>("second")[0] = 0;
  if (second == 3) simt::shared_array<Small, char, 12000>("second")[0] = 0;
}

// A function of its own, so that the compiler cannot see that the pointer leaves the array.
__attribute__((noinline)) __device__ void write(float* at) { *at = 0; }

__global__ void overrun(int distance) {
  float (&array)[8] = simt::shared_array<Array, float, 8>("array");
  write(array + 7 + distance);
}

__global__ void overrun_dynamic(int distance) {
  write(static_cast<float*>(simt::shared_dynamic()) + 7 + distance);
}

__global__ void index(int i, float* out) {
  float (&array)[8] = simt::shared_array<Array, float, 8>("array");
  array[i] = 1;
  *out = array[i];
}

struct alignas(16) FourFloats {
  float value[4];
};

__global__ void vector_load(const float* x, float* out) {
  *out = reinterpret_cast<const FourFloats*>(x)->value[1];
}

__global__ void vector_ldg(const float* x, float* out) {
  *out = __ldg(reinterpret_cast<const float4*>(x)).y;
}

__global__ void vector_store(float* x) {
  __stcs(reinterpret_cast<float4*>(x), make_float4(1, 2, 3, 4));
}

__global__ void shift(int distance, unsigned* out) { *out = 1u << distance; }

__global__ void divide(int divisor, int* out) { *out = 1 / divisor; }

__global__ void read_beyond(const float* x, int numel, float* sum) {
  float total = 0;
  for (int i = 0; i < numel; ++i) total += x[i];
  *sum = total;
}

__attribute__((noinline)) __device__ int recurse(int depth) {
  volatile char frame[1024];
  frame[0] = static_cast<char>(depth);
  return depth == 0 ? frame[0] : recurse(depth - 1) + frame[0];
}

__global__ void deep_recursion(int depth, int* out) { *out = recurse(depth); }

template <class Kernel>
int run(unsigned blocks, unsigned threads, Kernel kernel) {
  return selftest::report([&] { simt::launch(blocks, threads, 0, kernel); });
}

}  // namespace

extern "C" {

int selftest_divergent_barrier() { return run(1, 64, divergent_barrier); }
int selftest_divergent_kind() { return run(1, 64, divergent_kind); }
int selftest_exit_before_barrier(unsigned leaver) {
  return run(1, 64, [=] { exit_before_barrier(leaver); });
}
int selftest_own_lane_missing() { return run(1, 1, own_lane_missing); }
int selftest_mask_of_absent_lanes() { return run(1, 48, mask_of_absent_lanes); }
int selftest_mask_of_exited_lane(unsigned leaver) {
  return run(1, 32, [=] { mask_of_exited_lane(leaver); });
}
int selftest_masks_that_meet() { return run(1, 32, masks_that_meet); }
int selftest_divergent_shuffle() { return run(1, 32, divergent_shuffle); }
int selftest_bad_width(int width) {
  return run(1, 32, [=] { bad_width(width); });
}
int selftest_bad_distance(unsigned delta) {
  return run(1, 32, [=] { bad_distance(delta); });
}
int selftest_deadlock() { return run(2, 64, deadlock); }
int selftest_wait_for_flag(unsigned* flag, unsigned setter, unsigned blocks) {
  return run(blocks, 32, [=] { wait_for_flag(flag, setter); });
}
int selftest_large_shared(int second) {
  return run(1, 1, [=] { large_shared(second); });
}
int selftest_overrun(int distance) {
  return run(2, 1, [=] { overrun(distance); });
}
int selftest_overrun_dynamic(int distance) {
  return selftest::report(
      [=] { simt::launch(1, 1, 8 * sizeof(float), [=] { overrun_dynamic(distance); }); });
}
int selftest_index(int i, float* out) {
  return run(1, 1, [=] { index(i, out); });
}
int selftest_vector_load(const float* x, float* out) {
  return run(1, 1, [=] { vector_load(x, out); });
}
int selftest_vector_ldg(const float* x, float* out) {
  return run(1, 1, [=] { vector_ldg(x, out); });
}
int selftest_vector_store(float* x) {
  return run(1, 1, [=] { vector_store(x); });
}
int selftest_shift(int distance, unsigned* out) {
  return run(1, 1, [=] { shift(distance, out); });
}
int selftest_divide(int divisor, int* out) {
  return run(1, 1, [=] { divide(divisor, out); });
}
int selftest_read_beyond(const float* x, int numel, float* sum) {
  return run(1, 1, [=] { read_beyond(x, numel, sum); });
}
int selftest_deep_recursion(int depth, int* out) {
  return run(1, 1, [=] { deep_recursion(depth, out); });
}
int selftest_trap() {
  return run(1, 1, [] { __trap(); });
}
int selftest_throw() {
  return run(1, 1, [] { throw std::out_of_range("thrown by the kernel"); });
}
int selftest_nested_launch() {
  return run(1, 1, [] { simt::launch(1, 1, 0, [] {}); });
}
int selftest_barrier_outside() {
  return selftest::report([] { __syncthreads(); });
}

// An empty kernel of any shape.
int selftest_launch(unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                    unsigned block_y, unsigned block_z, std::size_t dynamic_shared_bytes) {
  return selftest::report([=] {
    simt::launch(dim3(grid_x, grid_y, grid_z), dim3(block_x, block_y, block_z),
                 dynamic_shared_bytes, [] {});
  });
}
}
