// The operators of RReLU with random slopes:
//
//   random_rrelu(.out)              from a seed: one int64 number in the device's memory
//   random_rrelu_backward(.out)     from the same seed, and the input or the output
//
// The slope of an element is a function of the seed and of its place in the tensor's order, not in
// memory. They know nothing of autograd (gradkern/rrelu.py) and do not write `_version`.

#include <torch/csrc/stable/library.h>

#include <stdexcept>
#include <string>

#include "rrelu_call.h"
#include "torch_ops/backends.h"
#include "torch_ops/boxed_kernel.h"
#include "torch_ops/dense_operands.h"
#include "torch_ops/fresh_tensors.h"
#include "torch_ops/operand_checks.h"
#include "torch_ops/row_operands.h"

namespace gradkern {
namespace {

// A tensor to read in the order of its elements: as it lies if it is contiguous, else a copy.
class Contiguous {
 public:
  explicit Contiguous(const TensorHandle& tensor) : original_(tensor) {
    if (tensor.is_contiguous()) return;
    staged_ = contiguous_like(tensor);
    check(aoti_torch_copy_(staged_.get(), tensor.get(), 0));
  }
  const void* data() const { return (staged_.get() != nullptr ? staged_ : original_).data(); }

 private:
  const TensorHandle& original_;
  TensorHandle staged_;
};

void require_seed(const TensorHandle& seed, const TensorHandle& input) {
  if (seed.dtype() != aoti_torch_dtype_int64() || seed.numel() != 1 ||
      seed.device_type() != input.device_type() || seed.device_index() != input.device_index()) {
    throw std::invalid_argument(
        "seed has " + std::to_string(seed.numel()) +
        " elements, or another dtype or device; it must be one int64 number "
        "on the device of input");
  }
}

RreluCall call_of(RreluPass pass, const TensorHandle& input, const TensorHandle& seed, double lower,
                  double upper) {
  const DType dtype = real_dtype_of(input, "input");
  if (!(lower <= upper)) {
    throw std::invalid_argument("lower is " + std::to_string(lower) +
                                "; it must not be above upper, " + std::to_string(upper));
  }
  require_seed(seed, input);
  return {pass, dtype,  input.numel(), lower, upper, static_cast<const int64_t*>(seed.data()),
          {},   nullptr};
}

// `out` is like the input, in any memory order.
void compute_into(RreluCall call, const TensorHandle& input, const TensorHandle& out) {
  const Device device = device_of(input);
  const Backend& backend = backend_for(device);
  if (call.numel == 0) return;
  TensorHandle staged;
  if (!out.is_contiguous()) staged = contiguous_like(out);
  call.out = (staged.get() != nullptr ? staged : out).data();
  {
    const DeviceCall on_device(device, 0);
    backend.rrelu(on_device.launch(), call);
  }
  if (staged.get() != nullptr) check(aoti_torch_copy_(out.get(), staged.get(), 0));
}

void value_into(const TensorHandle& input, const TensorHandle& seed, double lower, double upper,
                const TensorHandle& out) {
  RreluCall call = call_of(RreluPass::kValue, input, seed, lower, upper);
  const Contiguous x(input);
  call.in[0] = x.data();
  compute_into(call, input, out);
}

void backward_into(const TensorHandle& grad_output, const TensorHandle& saved,
                   const TensorHandle& seed, double lower, double upper, const TensorHandle& out) {
  RreluCall call = call_of(RreluPass::kBackward, saved, seed, lower, upper);
  require_like(grad_output, "grad_output", saved, "saved");
  const Contiguous grad(grad_output), x(saved);
  call.in[0] = grad.data();
  call.in[1] = x.data();
  compute_into(call, saved, out);
}

TensorHandle value(const TensorHandle& input, const TensorHandle& seed, double lower,
                   double upper) {
  call_of(RreluPass::kValue, input, seed, lower, upper);
  TensorHandle result = empty_like(input);
  value_into(input, seed, lower, upper, result);
  return result;
}

void value_out(const TensorHandle& input, const TensorHandle& seed, double lower, double upper,
               const TensorHandle& out) {
  require_like(out, "out", input, "input");
  require_not_overlapping(out, "out");
  require_same_or_apart(out, "out", input, "input");
  value_into(input, seed, lower, upper, out);
}

TensorHandle backward(const TensorHandle& grad_output, const TensorHandle& saved,
                      const TensorHandle& seed, double lower, double upper) {
  call_of(RreluPass::kBackward, saved, seed, lower, upper);
  TensorHandle result = empty_like(saved);
  backward_into(grad_output, saved, seed, lower, upper, result);
  return result;
}

void backward_out(const TensorHandle& grad_output, const TensorHandle& saved,
                  const TensorHandle& seed, double lower, double upper, const TensorHandle& out) {
  require_like(out, "out", saved, "saved");
  require_not_overlapping(out, "out");
  require_same_or_apart(out, "out", grad_output, "grad_output");
  require_same_or_apart(out, "out", saved, "saved");
  backward_into(grad_output, saved, seed, lower, upper, out);
}

void register_kernels(torch::stable::detail::StableLibrary& m) {
  m.impl("random_rrelu", boxed_kernel<value>);
  m.impl("random_rrelu.out", boxed_kernel<value_out>);
  m.impl("random_rrelu_backward", boxed_kernel<backward>);
  m.impl("random_rrelu_backward.out", boxed_kernel<backward_out>);
}

}  // namespace
}  // namespace gradkern

STABLE_TORCH_LIBRARY_FRAGMENT(gradkern, m) {
  m.def("random_rrelu(Tensor input, Tensor seed, float lower, float upper) -> Tensor");
  m.def(
      "random_rrelu.out(Tensor input, Tensor seed, float lower, float upper, *, Tensor(a!) out)"
      " -> ()");
  m.def(
      "random_rrelu_backward(Tensor grad_output, Tensor saved, Tensor seed, float lower, "
      "float upper) -> Tensor");
  m.def(
      "random_rrelu_backward.out(Tensor grad_output, Tensor saved, Tensor seed, float lower, "
      "float upper, *, Tensor(a!) out) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(gradkern, CPU, m) { gradkern::register_kernels(m); }
STABLE_TORCH_LIBRARY_IMPL(gradkern, CUDA, m) { gradkern::register_kernels(m); }
