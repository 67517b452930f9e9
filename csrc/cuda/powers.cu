// Norms of every order without a kernel of its own: pow makes it the largest kernel by far.

#include "cuda/reduce_launch.cuh"

namespace gradkern::cuda {

void launch_power_norms(const Launch& launch, TensorSpans tensors, double order, double* norms,
                        const TotalNorm* total) {
  launch_reduction<formulas::ScaledPowers>(launch, tensors, order, norms, nullptr, total);
}

}  // namespace gradkern::cuda
