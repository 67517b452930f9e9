// Softmax of float16: a file of its own, so that the storage types compile in parallel.

#include "cuda/softmax_launch.cuh"

namespace gradkern::cuda {

template struct SoftmaxLaunchers<__half>;

}  // namespace gradkern::cuda
