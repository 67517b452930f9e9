// The eight statistics of every tensor, and the norms that they determine.

#include "cuda/launchers.h"
#include "cuda/reduce_launch.cuh"

namespace gradkern::cuda {

void launch_statistics(const Launch& launch, TensorSpans tensors, double* statistics, double order,
                       double* norms, const TotalNorm* total) {
  launch_reduction<formulas::Statistics>(launch, tensors, order, norms, statistics, total);
}

}  // namespace gradkern::cuda
