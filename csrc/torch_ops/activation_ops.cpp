// The operators of the activations, generated from the table: for each row, say silu,
//
//   silu, silu.out, silu_            the value: new, into `out`, in place
//   silu_derivative                  dy/dx
//   silu_with_derivative (.out)      both, in one pass
//   silu_with_stats                  the value and its statistics, in one pass
//   silu_backward, silu_backward.out            grad * dy/dx, from the input
//   silu_second                                 grad * d2y/dx2: what the double backward needs
//   silu_backward_of_output(.out), silu_second_of_output    the same from the output, where the row
//                                               saves it
//
// They know nothing of autograd (gradkern/activation_autograd.py) and do not write `_version`.

#include <torch/csrc/stable/library.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "formulas/activation_table.h"
#include "torch_ops/backends.h"
#include "torch_ops/boxed_kernel.h"
#include "torch_ops/dense_operands.h"
#include "torch_ops/fresh_tensors.h"

namespace gradkern {
namespace {

using formulas::ActivationRow;

enum class Form { kNew, kOut, kInPlace };

ActivationCall call_of(int row, ActivationPass pass, const ReferenceOperand& reference,
                       const StableIValue* parameters) {
  ActivationCall call{row, pass, reference.dtype(), reference.numel(), {}, {}, {}};
  const ActivationRow& described = formulas::activation_rows()[row];
  for (int i = 0; i < described.parameter_count; i++) {
    call.parameters[i] = boxing::unbox<double>(parameters[i]);
  }
  described.validate(call.parameters);
  return call;
}

// The stack holds the inputs, the parameters, and for Form::kOut the outputs.
void run(int row, ActivationPass pass, Form form, StableIValue* stack) {
  const int inputs = inputs_of(pass);
  const int parameters = formulas::activation_rows()[row].parameter_count;
  TensorHandle tensors[2];
  for (int i = 0; i < inputs; i++) tensors[i] = boxing::unbox<TensorHandle>(stack[i]);
  const int outputs = outputs_of(pass);
  TensorHandle outs[2];
  if (form == Form::kOut) {
    for (int k = 0; k < outputs; k++) {
      outs[k] = boxing::unbox<TensorHandle>(stack[inputs + parameters + k]);
    }
  }

  const bool of_output =
      pass == ActivationPass::kBackwardOfOutput || pass == ActivationPass::kSecondOfOutput;
  const ReferenceOperand reference(tensors[inputs - 1], of_output ? "output" : "input");
  ActivationCall call = call_of(row, pass, reference, stack + inputs);
  call.in[inputs - 1] = reference.data();
  std::optional<Operand> grad, written[2];
  if (inputs == 2) {
    grad.emplace(tensors[0], "grad_output", reference, Operand::Access::kRead);
    call.in[0] = grad->data();
  }
  TensorHandle results[2];
  if (form == Form::kNew) {
    for (int k = 0; k < outputs; k++) {
      results[k] = reference.result();
      call.out[k] = results[k].data();
    }
  } else if (form == Form::kOut) {
    static constexpr const char* kNames[] = {"out", "derivative_out"};
    for (int k = 0; k < outputs; k++) {
      written[k].emplace(outs[k], kNames[k], reference, Operand::Access::kWrite);
      call.out[k] = written[k]->data();
    }
    if (outputs == 2 && call.numel > 0 && outs[0].data() == outs[1].data()) {
      throw std::invalid_argument("out and derivative_out share memory; each must have its own");
    }
  } else {
    reference.require_writable();
    call.out[0] = reference.writable_data();
  }
  const Backend& backend = backend_for(reference.device());
  if (call.numel > 0) {
    const DeviceCall on_device(reference.device(), 0);
    backend.activation(on_device.launch(), call);
  }
  if (form == Form::kOut) {
    for (int k = 0; k < outputs; k++) written[k]->commit();
  }
  if (form == Form::kInPlace) reference.commit();
  if (form == Form::kNew) {
    for (int k = 0; k < outputs; k++) stack[k] = boxing::box(std::move(results[k]));
  }
}

template <int kRow, ActivationPass kPass, Form kForm>
void boxed(StableIValue* stack, uint64_t, uint64_t) {
  run(kRow, kPass, kForm, stack);
}

// The stack holds the input, the parameters, and the channels' dimension.
void run_with_statistics(int row, StableIValue* stack) {
  const int parameters = formulas::activation_rows()[row].parameter_count;
  const TensorHandle input = boxing::unbox<TensorHandle>(stack[0]);
  const auto channel_dim = torch::stable::detail::to<std::optional<int64_t>>(stack[1 + parameters]);
  const ReferenceOperand reference(input, "input");
  const Channels channels = channel_dim ? reference.channels(*channel_dim) : Channels{0, 1};
  ActivationCall call = call_of(row, ActivationPass::kValue, reference, stack + 1);
  call.in[0] = reference.data();
  TensorHandle result = reference.result();
  call.out[0] = result.data();
  TensorHandle statistics =
      empty(reference.device(), aoti_torch_dtype_float64(),
            {static_cast<int64_t>(kActivationStatisticCount) + channels.count});
  const Backend& backend = backend_for(reference.device());
  const DeviceCall on_device(reference.device(), backend.activation_workspace(call.numel));
  backend.activation_statistics(on_device.launch(), call, channels,
                                static_cast<double*>(statistics.data()));
  stack[0] = boxing::box(std::move(result));
  stack[1] = boxing::box(std::move(statistics));
}

template <int kRow>
void boxed_with_statistics(StableIValue* stack, uint64_t, uint64_t) {
  run_with_statistics(kRow, stack);
}

// An operator's name, its schema after the name, and its kernel.
struct Operator {
  std::string name;
  std::string signature;
  void (*kernel)(StableIValue*, uint64_t, uint64_t);
};

// Calls visit(Operator) for each operator of a row.
template <int kRow, class Visit>
void each_operator(const ActivationRow& row, Visit visit) {
  using Pass = ActivationPass;
  const std::string name = row.name;
  std::string parameters;
  for (int i = 0; i < row.parameter_count; i++) {
    parameters += std::string(", float ") + row.parameters[i].name;
  }
  const std::string unary = "(Tensor input" + parameters;
  const std::string out = ", *, Tensor(a!) out) -> ()";
  visit(Operator{name, unary + ") -> Tensor", boxed<kRow, Pass::kValue, Form::kNew>});
  visit(Operator{name + ".out", unary + out, boxed<kRow, Pass::kValue, Form::kOut>});
  visit(Operator{name + "_", "(Tensor(a!) input" + parameters + ") -> ()",
                 boxed<kRow, Pass::kValue, Form::kInPlace>});
  visit(Operator{name + "_derivative", unary + ") -> Tensor",
                 boxed<kRow, Pass::kDerivative, Form::kNew>});
  visit(Operator{name + "_with_derivative", unary + ") -> (Tensor, Tensor)",
                 boxed<kRow, Pass::kValueAndDerivative, Form::kNew>});
  visit(Operator{name + "_with_derivative.out",
                 unary + ", *, Tensor(a!) out, Tensor(b!) derivative_out) -> ()",
                 boxed<kRow, Pass::kValueAndDerivative, Form::kOut>});
  visit(Operator{name + "_with_stats", unary + ", int? channel_dim) -> (Tensor, Tensor)",
                 boxed_with_statistics<kRow>});
  const std::string of_input = "(Tensor grad_output, Tensor input" + parameters;
  visit(Operator{name + "_backward", of_input + ") -> Tensor",
                 boxed<kRow, Pass::kBackward, Form::kNew>});
  visit(Operator{name + "_backward.out", of_input + out, boxed<kRow, Pass::kBackward, Form::kOut>});
  visit(
      Operator{name + "_second", of_input + ") -> Tensor", boxed<kRow, Pass::kSecond, Form::kNew>});
  if (!row.saves_output) return;
  const std::string of_output = "(Tensor grad_output, Tensor output" + parameters;
  visit(Operator{name + "_backward_of_output", of_output + ") -> Tensor",
                 boxed<kRow, Pass::kBackwardOfOutput, Form::kNew>});
  visit(Operator{name + "_backward_of_output.out", of_output + out,
                 boxed<kRow, Pass::kBackwardOfOutput, Form::kOut>});
  visit(Operator{name + "_second_of_output", of_output + ") -> Tensor",
                 boxed<kRow, Pass::kSecondOfOutput, Form::kNew>});
}

template <class Visit, int... kRow>
void each_operator_of_rows(Visit visit, std::integer_sequence<int, kRow...>) {
  (each_operator<kRow>(formulas::activation_rows()[kRow], visit), ...);
}

template <class Visit>
void each_operator_of_table(Visit visit) {
  each_operator_of_rows(visit, std::make_integer_sequence<int, formulas::Activations::kSize>());
}

void register_kernels(torch::stable::detail::StableLibrary& m) {
  each_operator_of_table([&](const Operator& op) { m.impl(op.name.c_str(), op.kernel); });
}

}  // namespace
}  // namespace gradkern

STABLE_TORCH_LIBRARY_FRAGMENT(gradkern, m) {
  gradkern::each_operator_of_table(
      [&](const gradkern::Operator& op) { m.def((op.name + op.signature).c_str()); });
}

STABLE_TORCH_LIBRARY_IMPL(gradkern, CPU, m) { gradkern::register_kernels(m); }
STABLE_TORCH_LIBRARY_IMPL(gradkern, CUDA, m) { gradkern::register_kernels(m); }
