// The operators of batch normalisation, with an addition and an activation fused:
//
//   batch_norm_training        by the batch's own statistics; moves the running ones
//   batch_norm_normalise       by statistics that are given
//   batch_norm_training_with_stats, batch_norm_normalise_with_stats
//                              the same, and the statistics of the output as it is written
//   batch_norm_moments         a part of a batch, for statistics over several processes
//   batch_norm_backward        the gradients of batch_norm_training
//   batch_norm_sums, batch_norm_input_gradient   the same in two steps
//
// They know nothing of autograd (gradkern/batch_norm_autograd.py) and do not write `_version`. A
// gradient of the residual that is not asked for is an empty tensor.

#include <torch/csrc/stable/library.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>

#include "batch_norm_call.h"
#include "formulas/batch_norm_activations.h"
#include "torch_ops/backends.h"
#include "torch_ops/boxed_kernel.h"
#include "torch_ops/dense_operands.h"
#include "torch_ops/fresh_tensors.h"
#include "torch_ops/storage.h"

namespace gradkern {
namespace {

using OptionalTensor = std::optional<TensorHandle>;

// The tensors of an elementwise call that are there or not.
class OptionalOperand {
 public:
  OptionalOperand(const OptionalTensor& tensor, const char* argument,
                  const ReferenceOperand& reference) {
    if (tensor) operand_.emplace(*tensor, argument, reference, Operand::Access::kRead);
  }
  const void* data() const { return operand_ ? operand_->data() : nullptr; }

 private:
  std::optional<Operand> operand_;
};

// Dense numbers of the channels.
void require_per_channel(const TensorHandle& tensor, const char* argument, int64_t channels,
                         Device device) {
  const std::string name(argument);
  if (tensor.dim() != 1 || tensor.numel() != channels) {
    throw std::invalid_argument(name + " has " + std::to_string(tensor.numel()) + " elements in " +
                                std::to_string(tensor.dim()) +
                                " dimensions; it must have one dimension of " +
                                std::to_string(channels) + ", the input's channels");
  }
  if (device_of(tensor) != device) {
    throw std::invalid_argument(name + " is on another device; it must be on that of the input");
  }
}

DType parameter_dtype(const TensorHandle& tensor, const char* argument) {
  const std::optional<Storage> storage = storage_of(tensor.dtype());
  if (!storage || storage->complex) {
    throw std::invalid_argument(
        std::string(argument) +
        " has a dtype without kernels; it must be float32, float64, bfloat16 or float16");
  }
  return storage->dtype;
}

// A parameter, dense.
class PerChannel {
 public:
  PerChannel(const OptionalTensor& tensor, const char* argument, int64_t channels, Device device) {
    if (!tensor) return;
    require_per_channel(*tensor, argument, channels, device);
    dtype_ = parameter_dtype(*tensor, argument);
    original_ = &*tensor;
    if (tensor->is_contiguous()) return;
    copy_ = empty(device, tensor->dtype(), {channels});
    check(aoti_torch_copy_(copy_.get(), tensor->get(), 0));
  }
  PerChannel(const PerChannel&) = delete;

  explicit operator bool() const { return original_ != nullptr; }
  DType dtype() const { return dtype_; }
  void* data() const {
    if (original_ == nullptr) return nullptr;
    return copy_.get() != nullptr ? copy_.data() : original_->data();
  }
  // Copies what was written back where the tensor lies.
  void commit() const {
    if (copy_.get() != nullptr) check(aoti_torch_copy_(original_->get(), copy_.get(), 0));
  }

 private:
  const TensorHandle* original_ = nullptr;
  TensorHandle copy_;
  DType dtype_ = DType::kFloat32;
};

// Statistics of the channels that an operator is given: float64.
class Statistic {
 public:
  Statistic(const TensorHandle& tensor, const char* argument, int64_t channels, Device device)
      : original_(tensor) {
    require_per_channel(tensor, argument, channels, device);
    if (tensor.dtype() != aoti_torch_dtype_float64()) {
      throw std::invalid_argument(std::string(argument) + " must be float64");
    }
    if (tensor.is_contiguous()) return;
    copy_ = empty(device, tensor.dtype(), {channels});
    check(aoti_torch_copy_(copy_.get(), tensor.get(), 0));
  }
  double* data() const {
    return static_cast<double*>(copy_.get() != nullptr ? copy_.data() : original_.data());
  }

 private:
  const TensorHandle& original_;
  TensorHandle copy_;
};

// Any dense order of memory is [outer, channels, inner]: the dimensions of smaller strides fill one
// index of the channel.
Channels channels_of(const ReferenceOperand& input) {
  if (input.dim() < 2) {
    throw std::invalid_argument("input has " + std::to_string(input.dim()) +
                                " dimensions; it must have at least 2, of which the second is the "
                                "channels'");
  }
  return input.channels(1, "the channels' dimension");
}

// What every operator is given beside the input.
struct Fused {
  const OptionalTensor& residual;
  const OptionalTensor& weight;
  const OptionalTensor& bias;
  int64_t activation;
  double parameter;
};

// A call, and the tensors that it reads.
class Prepared {
 public:
  Prepared(BatchNormPass pass, const ReferenceOperand& input, const Fused& fused)
      : reference_(input),
        channels_(channels_of(reference_).count),
        residual_(fused.residual, "residual", reference_),
        weight_(fused.weight, "weight", channels_, device()),
        bias_(fused.bias, "bias", channels_, device()) {
    if (weight_ && bias_ && weight_.dtype() != bias_.dtype()) {
      throw std::invalid_argument("bias must have the dtype of weight");
    }
    const int activations = gives_values(pass) ? formulas::BatchNormActivations::kSize
                                               : formulas::BatchNormGradients::kSize;
    if (fused.activation < 0 || fused.activation >= activations) {
      throw std::invalid_argument("activation is " + std::to_string(fused.activation) +
                                  "; it must be a row of gradkern's, below " +
                                  std::to_string(activations));
    }
    if (formulas::is_of_output(static_cast<int32_t>(fused.activation))) {
      if (element_size(reference_.dtype()) < static_cast<int64_t>(sizeof(float))) {
        throw std::invalid_argument(
            "input is a 16-bit output; it must be float32 or float64 for gradients without an "
            "input");
      }
      if (fused.residual) {
        throw std::invalid_argument(
            "residual is a tensor; it must be None for gradients without an input");
      }
    }
    const int64_t numel = reference_.numel();
    call.pass = pass;
    call.dtype = reference_.dtype();
    call.channels = channels_;
    call.inner = channels_of(reference_).inner;
    call.outer = numel == 0 ? 0 : numel / (call.channels * call.inner);
    call.activation = static_cast<int32_t>(fused.activation);
    call.parameters[0] = fused.parameter;
    call.parameter_dtype = weight_ ? weight_.dtype() : bias_.dtype();
    call.weight = weight_.data();
    call.bias = bias_.data();
    call.x = reference_.data();
    call.residual = residual_.data();
  }
  Prepared(const Prepared&) = delete;

  Device device() const { return reference_.device(); }
  int64_t channels() const { return channels_; }

  // New float64 numbers of the channels; zeros if there are no values.
  TensorHandle statistic() const { return numbers(channels_); }

  // For the statistics of the output.
  TensorHandle output_statistics() const { return numbers(kActivationStatisticCount + channels_); }

  TensorHandle no_gradient() const { return empty(device(), torch_dtype(call.dtype), {0}); }

  void run() const {
    const Backend& backend = backend_for(device());
    if (call.outer == 0) return;
    const DeviceCall on_device(device(), backend.batch_norm_workspace(call));
    backend.batch_norm(on_device.launch(), call);
  }

  BatchNormCall call{};

 private:
  TensorHandle numbers(int64_t count) const {
    TensorHandle tensor = empty(device(), aoti_torch_dtype_float64(), {count});
    if (reference_.numel() == 0) check(aoti_torch_zero_(tensor.get()));
    return tensor;
  }

  const ReferenceOperand& reference_;
  int64_t channels_;
  OptionalOperand residual_;
  PerChannel weight_, bias_;
};

// A result, and the statistics of the output where they are asked for.
template <bool kWithStats, class... Tensors>
auto with_stats(TensorHandle& statistics, Tensors&... tensors) {
  if constexpr (kWithStats) {
    return std::make_tuple(std::move(tensors)..., std::move(statistics));
  } else {
    return std::make_tuple(std::move(tensors)...);
  }
}

template <bool kWithStats>
auto training(const TensorHandle& input, const OptionalTensor& residual,
              const OptionalTensor& weight, const OptionalTensor& bias,
              const OptionalTensor& running_mean, const OptionalTensor& running_var,
              double momentum, double eps, int64_t activation, double parameter) {
  const ReferenceOperand dense(input, "input");
  Prepared prepared(BatchNormPass::kForward, dense,
                    {residual, weight, bias, activation, parameter});
  const PerChannel moved_mean(running_mean, "running_mean", prepared.channels(), prepared.device());
  const PerChannel moved_var(running_var, "running_var", prepared.channels(), prepared.device());
  if (moved_mean && moved_var && moved_mean.dtype() != moved_var.dtype()) {
    throw std::invalid_argument("running_var must have the dtype of running_mean");
  }
  TensorHandle result = dense.result();
  TensorHandle mean = prepared.statistic(), invstd = prepared.statistic(), statistics;
  BatchNormCall& call = prepared.call;
  if constexpr (kWithStats) {
    statistics = prepared.output_statistics();
    call.output_statistics = static_cast<double*>(statistics.data());
  }
  call.eps = eps;
  call.momentum = momentum;
  call.running_dtype = moved_mean ? moved_mean.dtype() : moved_var.dtype();
  call.running_mean = moved_mean.data();
  call.running_var = moved_var.data();
  call.mean = static_cast<double*>(mean.data());
  call.invstd = static_cast<double*>(invstd.data());
  call.y = result.data();
  prepared.run();
  moved_mean.commit();
  moved_var.commit();
  return with_stats<kWithStats>(statistics, result, mean, invstd);
}

template <bool kWithStats>
auto normalise(const TensorHandle& input, const OptionalTensor& residual,
               const OptionalTensor& weight, const OptionalTensor& bias, const TensorHandle& mean,
               const TensorHandle& invstd, int64_t activation, double parameter) {
  const ReferenceOperand dense(input, "input");
  Prepared prepared(BatchNormPass::kNormalise, dense,
                    {residual, weight, bias, activation, parameter});
  const Statistic of_mean(mean, "mean", prepared.channels(), prepared.device());
  const Statistic of_invstd(invstd, "invstd", prepared.channels(), prepared.device());
  TensorHandle result = dense.result(), statistics;
  if constexpr (kWithStats) {
    statistics = prepared.output_statistics();
    prepared.call.output_statistics = static_cast<double*>(statistics.data());
  }
  prepared.call.mean = of_mean.data();
  prepared.call.invstd = of_invstd.data();
  prepared.call.y = result.data();
  prepared.run();
  return with_stats<kWithStats>(statistics, result);
}

std::tuple<TensorHandle, TensorHandle> moments(const TensorHandle& input) {
  const ReferenceOperand dense(input, "input");
  const OptionalTensor nothing;
  Prepared prepared(BatchNormPass::kMoments, dense, {nothing, nothing, nothing, 0, 0});
  TensorHandle mean = prepared.statistic(), squares = prepared.statistic();
  prepared.call.mean = static_cast<double*>(mean.data());
  prepared.call.sum_squared_deviations = static_cast<double*>(squares.data());
  prepared.run();
  return {std::move(mean), std::move(squares)};
}

std::tuple<TensorHandle, TensorHandle> sums(
    const TensorHandle& grad_output, const TensorHandle& input, const OptionalTensor& residual,
    const OptionalTensor& weight, const OptionalTensor& bias, const TensorHandle& mean,
    const TensorHandle& invstd, int64_t activation, double parameter) {
  const ReferenceOperand dense(input, "input");
  Prepared prepared(BatchNormPass::kSums, dense, {residual, weight, bias, activation, parameter});
  const Operand grad(grad_output, "grad_output", dense, Operand::Access::kRead);
  const Statistic of_mean(mean, "mean", prepared.channels(), prepared.device());
  const Statistic of_invstd(invstd, "invstd", prepared.channels(), prepared.device());
  TensorHandle sum_dz = prepared.statistic(), sum_dz_xhat = prepared.statistic();
  BatchNormCall& call = prepared.call;
  call.mean = of_mean.data();
  call.invstd = of_invstd.data();
  call.grad_output = grad.data();
  call.sum_dz = static_cast<double*>(sum_dz.data());
  call.sum_dz_xhat = static_cast<double*>(sum_dz_xhat.data());
  prepared.run();
  return {std::move(sum_dz), std::move(sum_dz_xhat)};
}

std::tuple<TensorHandle, TensorHandle, TensorHandle, TensorHandle> backward(
    const TensorHandle& grad_output, const TensorHandle& input, const OptionalTensor& residual,
    const OptionalTensor& weight, const OptionalTensor& bias, const TensorHandle& mean,
    const TensorHandle& invstd, int64_t activation, double parameter, bool residual_grad) {
  const ReferenceOperand dense(input, "input");
  Prepared prepared(BatchNormPass::kBackward, dense,
                    {residual, weight, bias, activation, parameter});
  const Operand grad(grad_output, "grad_output", dense, Operand::Access::kRead);
  const Statistic of_mean(mean, "mean", prepared.channels(), prepared.device());
  const Statistic of_invstd(invstd, "invstd", prepared.channels(), prepared.device());
  TensorHandle grad_input = dense.result();
  TensorHandle grad_residual = residual_grad ? dense.result() : prepared.no_gradient();
  TensorHandle sum_dz = prepared.statistic(), sum_dz_xhat = prepared.statistic();
  BatchNormCall& call = prepared.call;
  call.mean = of_mean.data();
  call.invstd = of_invstd.data();
  call.grad_output = grad.data();
  call.grad_input = grad_input.data();
  call.grad_residual = residual_grad ? grad_residual.data() : nullptr;
  call.sum_dz = static_cast<double*>(sum_dz.data());
  call.sum_dz_xhat = static_cast<double*>(sum_dz_xhat.data());
  prepared.run();
  return {std::move(grad_input), std::move(grad_residual), std::move(sum_dz),
          std::move(sum_dz_xhat)};
}

std::tuple<TensorHandle, TensorHandle> input_gradient(
    const TensorHandle& grad_output, const TensorHandle& input, const OptionalTensor& residual,
    const OptionalTensor& weight, const OptionalTensor& bias, const TensorHandle& mean,
    const TensorHandle& invstd, const TensorHandle& sum_dz, const TensorHandle& sum_dz_xhat,
    double count, int64_t activation, double parameter, bool residual_grad) {
  const ReferenceOperand dense(input, "input");
  Prepared prepared(BatchNormPass::kInputGradient, dense,
                    {residual, weight, bias, activation, parameter});
  const Operand grad(grad_output, "grad_output", dense, Operand::Access::kRead);
  const Statistic of_mean(mean, "mean", prepared.channels(), prepared.device());
  const Statistic of_invstd(invstd, "invstd", prepared.channels(), prepared.device());
  const Statistic of_dz(sum_dz, "sum_dz", prepared.channels(), prepared.device());
  const Statistic of_dz_xhat(sum_dz_xhat, "sum_dz_xhat", prepared.channels(), prepared.device());
  TensorHandle grad_input = dense.result();
  TensorHandle grad_residual = residual_grad ? dense.result() : prepared.no_gradient();
  BatchNormCall& call = prepared.call;
  call.count = count;
  call.mean = of_mean.data();
  call.invstd = of_invstd.data();
  call.sum_dz = of_dz.data();
  call.sum_dz_xhat = of_dz_xhat.data();
  call.grad_output = grad.data();
  call.grad_input = grad_input.data();
  call.grad_residual = residual_grad ? grad_residual.data() : nullptr;
  prepared.run();
  return {std::move(grad_input), std::move(grad_residual)};
}

void register_kernels(torch::stable::detail::StableLibrary& m) {
  m.impl("batch_norm_training", boxed_kernel<training<false>>);
  m.impl("batch_norm_training_with_stats", boxed_kernel<training<true>>);
  m.impl("batch_norm_normalise", boxed_kernel<normalise<false>>);
  m.impl("batch_norm_normalise_with_stats", boxed_kernel<normalise<true>>);
  m.impl("batch_norm_moments", boxed_kernel<moments>);
  m.impl("batch_norm_sums", boxed_kernel<sums>);
  m.impl("batch_norm_backward", boxed_kernel<backward>);
  m.impl("batch_norm_input_gradient", boxed_kernel<input_gradient>);
}

}  // namespace
}  // namespace gradkern

STABLE_TORCH_LIBRARY_FRAGMENT(gradkern, m) {
  const std::string parameters = "Tensor? residual, Tensor? weight, Tensor? bias";
  const std::string statistics = "Tensor mean, Tensor invstd";
  const std::string activation = "int activation, float parameter";
  const std::string gradient =
      "(Tensor grad_output, Tensor input, " + parameters + ", " + statistics;
  const std::string training =
      "(Tensor input, " + parameters +
      ", Tensor(a!)? running_mean, Tensor(b!)? running_var, float momentum, float eps, " +
      activation + ") -> (Tensor, Tensor, Tensor";
  m.def(("batch_norm_training" + training + ")").c_str());
  m.def(("batch_norm_training_with_stats" + training + ", Tensor)").c_str());
  const std::string normalise =
      "(Tensor input, " + parameters + ", " + statistics + ", " + activation + ") -> ";
  m.def(("batch_norm_normalise" + normalise + "Tensor").c_str());
  m.def(("batch_norm_normalise_with_stats" + normalise + "(Tensor, Tensor)").c_str());
  m.def("batch_norm_moments(Tensor input) -> (Tensor, Tensor)");
  m.def(("batch_norm_sums" + gradient + ", " + activation + ") -> (Tensor, Tensor)").c_str());
  m.def(("batch_norm_backward" + gradient + ", " + activation +
         ", bool residual_grad) -> (Tensor, Tensor, Tensor, Tensor)")
            .c_str());
  m.def(("batch_norm_input_gradient" + gradient +
         ", Tensor sum_dz, Tensor sum_dz_xhat, float count, " + activation +
         ", bool residual_grad) -> (Tensor, Tensor)")
            .c_str());
}

STABLE_TORCH_LIBRARY_IMPL(gradkern, CPU, m) { gradkern::register_kernels(m); }
STABLE_TORCH_LIBRARY_IMPL(gradkern, CUDA, m) { gradkern::register_kernels(m); }
