// The operators of activations with a parameter for each channel, generated from their list:
//
//   bias_gelu(.out), bias_silu(.out), ...    act(input + bias), the bias along the last dimension
//   prelu(.out)                              a slope for each index of dimension 1, or one for all
//   bias_gelu_backward(.out), ...            both gradients, in one pass
//
// They know nothing of autograd (gradkern/channelwise_autograd.py) and do not write `_version`.

#include <torch/csrc/stable/library.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "channelwise_call.h"
#include "formulas/channelwise_activations.h"
#include "torch_ops/backends.h"
#include "torch_ops/boxed_kernel.h"
#include "torch_ops/dense_operands.h"
#include "torch_ops/operand_checks.h"
#include "torch_ops/row_operands.h"

namespace gradkern {
namespace {

using formulas::ChannelDim;

// The channels that a weight of this shape belongs to.
template <class Formula>
Channels channels_of(const ReferenceOperand& input, const TensorHandle& weight) {
  const Channels all{1, input.numel()};
  if constexpr (Formula::kChannelDim == ChannelDim::kLast) {
    if (input.dim() == 0) {
      throw std::invalid_argument("input has no dimension; it must have one for the bias");
    }
    require_shape(weight, Formula::kWeight, {input.sizes()[input.dim() - 1]},
                  "the last dimension of input");
    return input.channels(-1, Formula::kWeight);
  } else {
    if (weight.numel() == 1 && weight.dim() <= 1) return all;
    if (input.dim() == 0) {
      throw std::invalid_argument("weight has " + std::to_string(weight.numel()) +
                                  " elements; it must have 1 for an input without dimensions");
    }
    require_shape(weight, Formula::kWeight, {input.dim() == 1 ? 1 : input.sizes()[1]},
                  "dimension 1 of input, or a single element,");
    return input.dim() == 1 ? all : input.channels(1, Formula::kWeight);
  }
}

template <class Formula>
ChannelwiseCall call_of(int row, ChannelwisePass pass, const ReferenceOperand& input,
                        const TensorHandle& weight) {
  const Channels channels = channels_of<Formula>(input, weight);
  require_type_of(weight, Formula::kWeight, input.original(), "input");
  ChannelwiseCall call{row, pass,    input.dtype(), 0,      channels.count, channels.inner,
                       {},  nullptr, nullptr,       nullptr};
  if (input.numel() > 0) call.outer = input.numel() / (channels.count * channels.inner);
  return call;
}

void compute(const ReferenceOperand& input, const ChannelwiseCall& call) {
  const Backend& backend = backend_for(input.device());
  if (input.numel() == 0) return;
  const DeviceCall on_device(input.device(), backend.channelwise_workspace(call));
  backend.channelwise(on_device.launch(), call);
}

// ---- adapters: entry kRow of the list is Formula -----------------------------------------------

template <int kRow, class Formula>
TensorHandle value(const TensorHandle& input, const TensorHandle& weight) {
  const ReferenceOperand reference(input, "input");
  ChannelwiseCall call = call_of<Formula>(kRow, ChannelwisePass::kValue, reference, weight);
  const RowOperand weights(weight);
  TensorHandle result = reference.result();
  call.in[0] = reference.data();
  call.weight = weights.rows().data;
  call.out = result.data();
  compute(reference, call);
  return result;
}

template <int kRow, class Formula>
void value_out(const TensorHandle& input, const TensorHandle& weight, const TensorHandle& out) {
  const ReferenceOperand reference(input, "input");
  ChannelwiseCall call = call_of<Formula>(kRow, ChannelwisePass::kValue, reference, weight);
  require_apart(out, "out", weight, Formula::kWeight);
  const Operand written(out, "out", reference, Operand::Access::kWrite);
  const RowOperand weights(weight);
  call.in[0] = reference.data();
  call.weight = weights.rows().data;
  call.out = written.data();
  compute(reference, call);
  written.commit();
}

void backward_into(ChannelwiseCall call, const ReferenceOperand& input, const Operand& grad,
                   const TensorHandle& weight, void* grad_input, const TensorHandle& grad_weight) {
  const RowOperand weights(weight);
  const WrittenRows sums(grad_weight);
  call.in[0] = grad.data();
  call.in[1] = input.data();
  call.weight = weights.rows().data;
  call.out = grad_input;
  call.grad_weight = sums.rows().data;
  compute(input, call);
  sums.commit();
  if (input.numel() == 0) check(aoti_torch_zero_(grad_weight.get()));
}

template <int kRow, class Formula>
std::tuple<TensorHandle, TensorHandle> backward(const TensorHandle& grad_output,
                                                const TensorHandle& input,
                                                const TensorHandle& weight) {
  const ReferenceOperand reference(input, "input");
  const auto call = call_of<Formula>(kRow, ChannelwisePass::kBackward, reference, weight);
  const Operand grad(grad_output, "grad_output", reference, Operand::Access::kRead);
  TensorHandle grad_input = reference.result(), grad_weight = contiguous_like(weight);
  backward_into(call, reference, grad, weight, grad_input.data(), grad_weight);
  return {std::move(grad_input), std::move(grad_weight)};
}

template <int kRow, class Formula>
void backward_out(const TensorHandle& grad_output, const TensorHandle& input,
                  const TensorHandle& weight, const TensorHandle& grad_input,
                  const TensorHandle& grad_weight) {
  const ReferenceOperand reference(input, "input");
  const auto call = call_of<Formula>(kRow, ChannelwisePass::kBackward, reference, weight);
  const std::string name = std::string("grad_") + Formula::kWeight;
  require_like(grad_weight, name.c_str(), weight, Formula::kWeight);
  require_not_overlapping(grad_weight, name.c_str());
  for (const auto& [tensor, argument] :
       {std::pair(&grad_output, "grad_output"), std::pair(&input, "input"),
        std::pair(&weight, Formula::kWeight), std::pair(&grad_input, "grad_input")}) {
    require_apart(grad_weight, name.c_str(), *tensor, argument);
  }
  require_apart(grad_input, "grad_input", weight, Formula::kWeight);
  require_same_or_apart(grad_input, "grad_input", grad_output, "grad_output");
  const Operand grad(grad_output, "grad_output", reference, Operand::Access::kRead);
  const Operand written(grad_input, "grad_input", reference, Operand::Access::kWrite);
  backward_into(call, reference, grad, weight, written.data(), grad_weight);
  written.commit();
}

// An operator's name, its schema after the name, and its kernel.
struct Operator {
  std::string name, signature;
  void (*kernel)(StableIValue*, uint64_t, uint64_t);
};

template <int kRow, class Formula, class Visit>
void each_operator(Visit visit) {
  const std::string name = Formula::kName, weight = Formula::kWeight;
  const std::string inputs = "Tensor input, Tensor " + weight;
  visit(Operator{name, "(" + inputs + ") -> Tensor", boxed_kernel<value<kRow, Formula>>});
  visit(Operator{name + ".out", "(" + inputs + ", *, Tensor(a!) out) -> ()",
                 boxed_kernel<value_out<kRow, Formula>>});
  visit(Operator{name + "_backward", "(Tensor grad_output, " + inputs + ") -> (Tensor, Tensor)",
                 boxed_kernel<backward<kRow, Formula>>});
  visit(Operator{name + "_backward.out",
                 "(Tensor grad_output, " + inputs + ", *, Tensor(a!) grad_input, Tensor(b!) grad_" +
                     weight + ") -> ()",
                 boxed_kernel<backward_out<kRow, Formula>>});
}

template <class Visit, class... Formula, int... kRow>
void each_operator_of(formulas::FormulaList<Formula...>, std::integer_sequence<int, kRow...>,
                      Visit visit) {
  (each_operator<kRow, Formula>(visit), ...);
}

template <class Visit>
void each_operator_of_list(Visit visit) {
  using List = formulas::ChannelwiseActivations;
  each_operator_of(List(), std::make_integer_sequence<int, List::kSize>(), visit);
}

void register_kernels(torch::stable::detail::StableLibrary& m) {
  each_operator_of_list([&](const Operator& op) { m.impl(op.name.c_str(), op.kernel); });
}

}  // namespace
}  // namespace gradkern

STABLE_TORCH_LIBRARY_FRAGMENT(gradkern, m) {
  gradkern::each_operator_of_list(
      [&](const gradkern::Operator& op) { m.def((op.name + op.signature).c_str()); });
}

STABLE_TORCH_LIBRARY_IMPL(gradkern, CPU, m) { gradkern::register_kernels(m); }
STABLE_TORCH_LIBRARY_IMPL(gradkern, CUDA, m) { gradkern::register_kernels(m); }
