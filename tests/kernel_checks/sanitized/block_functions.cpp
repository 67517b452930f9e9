// What kernels are built from, used harder than any of them does: the same function twice in a row,
// with nothing in between that orders the two.

#include "case.h"
#include "cuda/block_merge.cuh"
#include "cuda/platform.h"
#include "device_memory.h"
#include "expect.h"
#include "formulas/norms.h"

namespace gradkern::checks {
namespace {

constexpr int kRounds = 3;

struct Tag;

__global__ void merge_in_a_row(double* results) {
  for (int round = 0; round < kRounds; round++) {
    const auto partial = cuda::block_merge<formulas::SumOfMagnitudes>(
        formulas::Partial<1>{{double(threadIdx.x * (round + 1))}}, 1);
    if (threadIdx.x == 0) results[blockIdx.x * kRounds + round] = partial.value[0];
  }
}

__global__ void broadcast_in_a_row(double* results) {
  for (int round = 0; round < kRounds; round++) {
    const double value = cuda::broadcast<Tag>(double(threadIdx.x + round));
    results[(blockIdx.x * kRounds + round) * cuda::kThreads + threadIdx.x] = value;
  }
}

}  // namespace

void block_merge_in_a_row(const Setting&) {
  constexpr int kBlocks = 2;
  const DeviceArray<double> results(kBlocks * kRounds);
  cuda::launch(merge_in_a_row, kBlocks, cuda::kThreads, nullptr, results.data());
  for (int i = 0; i < kBlocks * kRounds; i++) {
    const double sum = cuda::kThreads * (cuda::kThreads - 1) / 2 * (i % kRounds + 1);
    expect_close(results[i], sum, 0, "sum", i);
  }
}

void block_broadcast_in_a_row(const Setting&) {
  constexpr int kBlocks = 2;
  const DeviceArray<double> results(kBlocks * kRounds * cuda::kThreads);
  cuda::launch(broadcast_in_a_row, kBlocks, cuda::kThreads, nullptr, results.data());
  for (int i = 0; i < kBlocks * kRounds * cuda::kThreads; i++) {
    expect_close(results[i], i / cuda::kThreads % kRounds, 0, "value", i);
  }
}

}  // namespace gradkern::checks
