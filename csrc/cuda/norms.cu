// Norms of orders 0, 1, 2 and plus or minus infinity.

#include <cmath>

#include "cuda/launchers.h"
#include "cuda/reduce_launch.cuh"

namespace gradkern::cuda {

// Every other order (powers.cu).
void launch_power_norms(const Launch& launch, TensorSpans tensors, double order, double* norms,
                        const TotalNorm* total);

void launch_norms(const Launch& launch, TensorSpans tensors, double order, double* norms,
                  const TotalNorm* total) {
  if (order == 2) {
    launch_reduction<formulas::SumOfSquares>(launch, tensors, order, norms, nullptr, total);
  } else if (order == 1) {
    launch_reduction<formulas::SumOfMagnitudes>(launch, tensors, order, norms, nullptr, total);
  } else if (order == 0) {
    launch_reduction<formulas::NonzeroCount>(launch, tensors, order, norms, nullptr, total);
  } else if (order == INFINITY) {
    launch_reduction<formulas::LargestMagnitude>(launch, tensors, order, norms, nullptr, total);
  } else if (order == -INFINITY) {
    launch_reduction<formulas::SmallestMagnitude>(launch, tensors, order, norms, nullptr, total);
  } else {
    launch_power_norms(launch, tensors, order, norms, total);
  }
}

}  // namespace gradkern::cuda
