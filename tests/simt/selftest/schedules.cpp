// Kernels that show in which order threads ran, and where they were.
#include "selftest/report.h"
#include "shared_array.h"

namespace {

// order[k] is the k-th thread of the grid to come by.
__global__ void trace(unsigned* count, int* order) {
  const unsigned thread = blockIdx.x * blockDim.x + threadIdx.x;
  order[atomicAdd(count, 1u)] = static_cast<int>(thread);
}

// coordinates[7 * thread + ...]: blockIdx, threadIdx, and what a warp of theirs sees of it: the
// lane.
__global__ void coordinates(int* out) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const unsigned lane = thread % warpSize;
  const unsigned lanes = blockDim.x * blockDim.y * blockDim.z - (thread - lane);
  const unsigned mask = lanes >= 32 ? 0xffffffffu : (1u << lanes) - 1;
  int* const row = out + 7 * (block * blockDim.x * blockDim.y * blockDim.z + thread);
  row[0] = static_cast<int>(blockIdx.x);
  row[1] = static_cast<int>(blockIdx.y);
  row[2] = static_cast<int>(blockIdx.z);
  row[3] = static_cast<int>(threadIdx.x);
  row[4] = static_cast<int>(threadIdx.y);
  row[5] = static_cast<int>(threadIdx.z);
  row[6] = static_cast<int>(__shfl_sync(mask, lane, static_cast<int>(lane)));
}

// What a block finds in shared memory, static and dynamic, that nobody has written.
__global__ void read_unwritten(float* out) {
  struct Unwritten;
  float (&array)[4] = simt::shared_array<Unwritten, float, 4>();
  float* const dynamic = static_cast<float*>(simt::shared_dynamic());
  out[2 * blockIdx.x] = array[3];
  out[2 * blockIdx.x + 1] = dynamic[3];
  array[3] = dynamic[3] = 1;  // the next block must not find this
}

}  // namespace

extern "C" {

int selftest_trace(unsigned blocks, unsigned threads, unsigned* count, int* order) {
  return selftest::report([=] { simt::launch(blocks, threads, 0, [=] { trace(count, order); }); });
}

int selftest_coordinates(const unsigned* grid, const unsigned* block, int* out) {
  return selftest::report([=] {
    simt::launch(dim3(grid[0], grid[1], grid[2]), dim3(block[0], block[1], block[2]), 0,
                 [=] { coordinates(out); });
  });
}

int selftest_read_unwritten(unsigned blocks, float* out) {
  return selftest::report(
      [=] { simt::launch(blocks, 1, 4 * sizeof(float), [=] { read_unwritten(out); }); });
}
}
