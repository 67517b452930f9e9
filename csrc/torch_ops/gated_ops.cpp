// The operators of the gated activations, generated from their list: for each, say swiglu,
//
//   swiglu(.out)                   act(gate) * up
//   swiglu_backward(.out)          the gradients of gate and up, in one pass
//   swiglu_split(.out)             the same of one tensor: the first half of its last dimension is
//   swiglu_split_backward(.out)    the gate, the second one what it gates
//
// They know nothing of autograd (gradkern/gated_autograd.py) and do not write `_version`.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "formulas/gated_activations.h"
#include "gated_call.h"
#include "torch_ops/backends.h"
#include "torch_ops/boxed_kernel.h"
#include "torch_ops/dense_operands.h"
#include "torch_ops/operand_checks.h"
#include "torch_ops/row_operands.h"

namespace gradkern {
namespace {

struct Argument {
  const TensorHandle& tensor;
  const char* name;
};
using Arguments = std::vector<Argument>;
using Results = std::vector<TensorHandle>;

void compute(const TensorHandle& reference, GatedCall& call) {
  const Device device = device_of(reference);
  const Backend& backend = backend_for(device);
  if (call.rows * call.columns == 0) return;
  const DeviceCall on_device(device, 0);
  backend.gated(on_device.launch(), call);
}

bool have_strides_of(const TensorHandle& reference, const Arguments& arguments) {
  return std::all_of(arguments.begin(), arguments.end(), [&](const Argument& a) {
    const int64_t *strides = a.tensor.strides(), dim = a.tensor.dim();
    return std::equal(strides, strides + dim, reference.strides());
  });
}

// Whether each operand's rows are evenly spaced, and not all are dense in one order.
bool lie_in_rows(const TensorHandle& gate, const Arguments& in, const Arguments& out) {
  if (gate.dim() == 0) return false;
  if (gate.is_contiguous() && have_strides_of(gate, in) && have_strides_of(gate, out)) return false;
  const auto is_rows = [](const Argument& a) { return row_stride(a.tensor).has_value(); };
  return std::all_of(in.begin(), in.end(), is_rows) && std::all_of(out.begin(), out.end(), is_rows);
}

// Throws for outputs that can't be written.
void require_writable(const Arguments& out, const Arguments& in) {
  for (size_t k = 0; k < out.size(); k++) {
    require_not_overlapping(out[k].tensor, out[k].name);
    for (const Argument& a : in) {
      require_same_or_apart(out[k].tensor, out[k].name, a.tensor, a.name);
    }
    for (size_t j = 0; j < k; j++) {
      require_apart(out[k].tensor, out[k].name, out[j].tensor, out[j].name);
    }
  }
}

// Sets the call's operands, which lie in rows, and runs it.
void compute_rows(GatedCall call, const TensorHandle& reference, const std::vector<Rows>& in,
                  const std::vector<Rows>& out) {
  for (size_t k = 0; k < in.size(); k++) {
    call.in[k] = in[k].data;
    call.in_stride[k] = in[k].stride;
  }
  for (size_t k = 0; k < out.size(); k++) {
    call.out[k] = out[k].data;
    call.out_stride[k] = out[k].stride;
  }
  compute(reference, call);
}

// The operands as they lie.
Results by_rows(GatedCall call, const TensorHandle& gate, const Arguments& in,
                const Arguments& out) {
  call.columns = gate.sizes()[gate.dim() - 1];
  call.rows = call.columns == 0 ? 0 : gate.numel() / call.columns;
  std::vector<Rows> read, written;
  for (const Argument& a : in) read.push_back(rows_of(a.tensor));
  for (const Argument& a : out) written.push_back(rows_of(a.tensor));
  Results results;
  while (static_cast<int>(written.size()) < outputs_of(call.pass)) {
    results.push_back(rows_like(gate, call.columns));
    written.push_back(rows_of(results.back()));
  }
  compute_rows(call, gate, read, written);
  return results;
}

// The operands in the gate's memory order, copied where they are not: one row.
Results in_order_of_gate(GatedCall call, const Argument& gate, const Arguments& in,
                         const Arguments& out) {
  const ReferenceOperand reference(gate.tensor, gate.name);
  call.rows = 1;
  call.columns = reference.numel();
  Results results;
  std::vector<Operand> read, written;
  read.reserve(in.size());
  for (size_t k = 0; k < in.size(); k++) {
    call.in[k] = reference.data();
    if (&in[k] == &gate) continue;
    read.emplace_back(in[k].tensor, in[k].name, reference, Operand::Access::kRead);
    call.in[k] = read.back().data();
  }
  written.reserve(outputs_of(call.pass));
  for (int k = 0; k < outputs_of(call.pass); k++) {
    if (out.empty()) {
      results.push_back(reference.result());
      call.out[k] = results.back().data();
    } else {
      written.emplace_back(out[k].tensor, out[k].name, reference, Operand::Access::kWrite);
      call.out[k] = written.back().data();
    }
  }
  compute(gate.tensor, call);
  for (const Operand& operand : written) operand.commit();
  return results;
}

// Operands of one shape, in the order of GatedCall; the gate decides shape, dtype, device and
// memory order. Without `out` the results are new tensors.
Results elementwise(int row, GatedPass pass, const Arguments& in, const Arguments& out) {
  const Argument& gate = in[in.size() - 2];
  const GatedCall call{row, pass, real_dtype_of(gate.tensor, gate.name), 0, 0, {}, {}, {}, {}};
  for (const Argument& a : in) require_like(a.tensor, a.name, gate.tensor, gate.name);
  for (const Argument& a : out) require_like(a.tensor, a.name, gate.tensor, gate.name);
  require_writable(out, in);
  return lie_in_rows(gate.tensor, in, out) ? by_rows(call, gate.tensor, in, out)
                                           : in_order_of_gate(call, gate, in, out);
}

// ---- the halves of one tensor ------------------------------------------------------------------

int64_t half_of_columns(const TensorHandle& input) {
  if (input.dim() == 0) {
    throw std::invalid_argument("input has no dimension; it must have one to be split in halves");
  }
  const int64_t columns = input.sizes()[input.dim() - 1];
  if (columns % 2 != 0) {
    throw std::invalid_argument("the last dimension of input is " + std::to_string(columns) +
                                "; it must be even, to be split in halves");
  }
  return columns / 2;
}

GatedCall call_of_halves(int row, GatedPass pass, const TensorHandle& input) {
  const int64_t columns = half_of_columns(input);
  const int64_t rows = columns == 0 ? 0 : input.numel() / (2 * columns);
  return {row, pass, real_dtype_of(input, "input"), rows, columns, {}, {}, {}, {}};
}

Rows second_half(const GatedCall& call, const Rows& rows) {
  const int64_t bytes = call.columns * element_size(call.dtype);
  return {static_cast<char*>(rows.data) + bytes, rows.stride};
}

void require_half(const TensorHandle& tensor, const char* argument, const TensorHandle& input) {
  std::vector<int64_t> sizes(input.sizes(), input.sizes() + input.dim());
  sizes.back() /= 2;
  require_shape(tensor, argument, sizes, "a half of input");
  require_type_of(tensor, argument, input, "input");
}

void split_into(int row, const TensorHandle& input, const TensorHandle& out) {
  const GatedCall call = call_of_halves(row, GatedPass::kValue, input);
  const RowOperand read(input);
  const WrittenRows written(out);
  compute_rows(call, input, {read.rows(), second_half(call, read.rows())}, {written.rows()});
  written.commit();
}

void split_backward_into(int row, const TensorHandle& grad_output, const TensorHandle& input,
                         const TensorHandle& out) {
  const GatedCall call = call_of_halves(row, GatedPass::kBackward, input);
  require_half(grad_output, "grad_output", input);
  const RowOperand grad(grad_output), read(input);
  const WrittenRows written(out);
  compute_rows(call, input, {grad.rows(), read.rows(), second_half(call, read.rows())},
               {written.rows(), second_half(call, written.rows())});
  written.commit();
}

// ---- adapters ----------------------------------------------------------------------------------

template <int kRow>
TensorHandle value(const TensorHandle& gate, const TensorHandle& up) {
  return std::move(elementwise(kRow, GatedPass::kValue, {{gate, "gate"}, {up, "up"}}, {})[0]);
}

template <int kRow>
void value_out(const TensorHandle& gate, const TensorHandle& up, const TensorHandle& out) {
  elementwise(kRow, GatedPass::kValue, {{gate, "gate"}, {up, "up"}}, {{out, "out"}});
}

template <int kRow>
std::tuple<TensorHandle, TensorHandle> backward(const TensorHandle& grad_output,
                                                const TensorHandle& gate, const TensorHandle& up) {
  Results results = elementwise(kRow, GatedPass::kBackward,
                                {{grad_output, "grad_output"}, {gate, "gate"}, {up, "up"}}, {});
  return {std::move(results[0]), std::move(results[1])};
}

template <int kRow>
void backward_out(const TensorHandle& grad_output, const TensorHandle& gate, const TensorHandle& up,
                  const TensorHandle& grad_gate, const TensorHandle& grad_up) {
  elementwise(kRow, GatedPass::kBackward,
              {{grad_output, "grad_output"}, {gate, "gate"}, {up, "up"}},
              {{grad_gate, "grad_gate"}, {grad_up, "grad_up"}});
}

template <int kRow>
TensorHandle split(const TensorHandle& input) {
  TensorHandle result = rows_like(input, half_of_columns(input));
  split_into(kRow, input, result);
  return result;
}

template <int kRow>
void split_out(const TensorHandle& input, const TensorHandle& out) {
  half_of_columns(input);
  require_half(out, "out", input);
  require_not_overlapping(out, "out");
  require_apart(out, "out", input, "input");
  split_into(kRow, input, out);
}

template <int kRow>
TensorHandle split_backward(const TensorHandle& grad_output, const TensorHandle& input) {
  TensorHandle result = rows_like(input, 2 * half_of_columns(input));
  split_backward_into(kRow, grad_output, input, result);
  return result;
}

template <int kRow>
void split_backward_out(const TensorHandle& grad_output, const TensorHandle& input,
                        const TensorHandle& out) {
  require_like(out, "out", input, "input");
  require_not_overlapping(out, "out");
  require_apart(out, "out", grad_output, "grad_output");
  require_same_or_apart(out, "out", input, "input");
  split_backward_into(kRow, grad_output, input, out);
}

// An operator's name, its schema after the name, and its kernel.
struct Operator {
  std::string name;
  const char* signature;
  void (*kernel)(StableIValue*, uint64_t, uint64_t);
};

template <int kRow, class Visit>
void each_operator(const std::string& name, Visit visit) {
  visit(Operator{name, "(Tensor gate, Tensor up) -> Tensor", boxed_kernel<value<kRow>>});
  visit(Operator{name + ".out", "(Tensor gate, Tensor up, *, Tensor(a!) out) -> ()",
                 boxed_kernel<value_out<kRow>>});
  visit(Operator{name + "_backward",
                 "(Tensor grad_output, Tensor gate, Tensor up) -> (Tensor, Tensor)",
                 boxed_kernel<backward<kRow>>});
  visit(Operator{name + "_backward.out",
                 "(Tensor grad_output, Tensor gate, Tensor up, *, Tensor(a!) grad_gate, "
                 "Tensor(b!) grad_up) -> ()",
                 boxed_kernel<backward_out<kRow>>});
  visit(Operator{name + "_split", "(Tensor input) -> Tensor", boxed_kernel<split<kRow>>});
  visit(Operator{name + "_split.out", "(Tensor input, *, Tensor(a!) out) -> ()",
                 boxed_kernel<split_out<kRow>>});
  visit(Operator{name + "_split_backward", "(Tensor grad_output, Tensor input) -> Tensor",
                 boxed_kernel<split_backward<kRow>>});
  visit(Operator{name + "_split_backward.out",
                 "(Tensor grad_output, Tensor input, *, Tensor(a!) out) -> ()",
                 boxed_kernel<split_backward_out<kRow>>});
}

template <class Visit, class... Formula, int... kRow>
void each_operator_of(formulas::FormulaList<Formula...>, std::integer_sequence<int, kRow...>,
                      Visit visit) {
  (each_operator<kRow>(Formula::kName, visit), ...);
}

template <class Visit>
void each_operator_of_list(Visit visit) {
  using List = formulas::GatedActivations;
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
