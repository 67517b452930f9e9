// The activations of float64: a file of its own, so that the storage types compile in parallel.

#include "cuda/activation_launch.cuh"

namespace gradkern::cuda {

template struct ActivationLaunchers<double>;

}  // namespace gradkern::cuda
