// A kernel with a race, which ThreadSanitizer must report: blocks hand over results by a ticket,
// without a fence. As many threads and barriers as the project's kernels have, because that is what
// some runtimes fail at.

#include <cstdint>
#include <cstdio>
#include <vector>

#include "simt.h"

extern "C" int simt_configure(int policy, uint64_t seed, unsigned resident_blocks);

namespace {

constexpr int kBlocks = 4, kThreads = 256;

__global__ void unfenced(double* partials, unsigned* counter, double* sums) {
  static char key;
  bool& last = *static_cast<bool*>(simt::shared_static(&key, sizeof(bool)));
  for (int i = 0; i < 10; i++) __syncthreads();
  if (threadIdx.x == 0) {
    partials[blockIdx.x] = blockIdx.x;
    last = atomicAdd(counter, 1u) == kBlocks - 1;
    __threadfence();
  }
  __syncthreads();
  if (last) sums[threadIdx.x] = __ldcg(partials + threadIdx.x % kBlocks);
}

}  // namespace

int main() {
  std::vector<double> partials(kBlocks), sums(kThreads);
  for (int policy = 0; policy < 4; policy++) {
    unsigned counter = 0;
    simt_configure(policy, 1, kBlocks);
    simt::launch(dim3(kBlocks), dim3(kThreads), 0,
                 [&] { unfenced(partials.data(), &counter, sums.data()); });
  }
  std::puts("no race was reported");
}
