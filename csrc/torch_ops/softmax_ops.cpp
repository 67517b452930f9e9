// The operators of softmax along a dimension:
//
//   softmax, softmax.out; log_softmax, log_softmax.out
//   softmax_backward(.out), log_softmax_backward(.out)    from the output of the forward pass
//
// They know nothing of autograd (gradkern/softmax_autograd.py) and do not write `_version`.

#include <torch/csrc/stable/library.h>

#include <optional>

#include "softmax_call.h"
#include "torch_ops/backends.h"
#include "torch_ops/boxed_kernel.h"
#include "torch_ops/dense_operands.h"

namespace gradkern {
namespace {

// A tensor without dimensions is one row of one element.
SoftmaxCall call_of(SoftmaxPass pass, const ReferenceOperand& reference, int64_t dim) {
  const bool is_scalar = reference.dim() == 0 && (dim == 0 || dim == -1);
  const Channels along = is_scalar ? Channels{1, 1} : reference.channels(dim, "dim");
  SoftmaxCall call{pass, reference.dtype(), 0, along.count, along.inner, {}, nullptr};
  if (reference.numel() > 0) call.outer = reference.numel() / (along.count * along.inner);
  return call;
}

void run(const ReferenceOperand& reference, const SoftmaxCall& call) {
  const Backend& backend = backend_for(reference.device());
  if (call.outer == 0) return;
  const DeviceCall on_device(reference.device(), 0);
  backend.softmax(on_device.launch(), call);
}

template <SoftmaxPass kPass>
TensorHandle forward(const TensorHandle& input, int64_t dim) {
  const ReferenceOperand reference(input, "input");
  SoftmaxCall call = call_of(kPass, reference, dim);
  TensorHandle result = reference.result();
  call.in[0] = reference.data();
  call.out = result.data();
  run(reference, call);
  return result;
}

template <SoftmaxPass kPass>
void forward_out(const TensorHandle& input, int64_t dim, const TensorHandle& out) {
  const ReferenceOperand reference(input, "input");
  SoftmaxCall call = call_of(kPass, reference, dim);
  const Operand written(out, "out", reference, Operand::Access::kWrite);
  call.in[0] = reference.data();
  call.out = written.data();
  run(reference, call);
  written.commit();
}

template <SoftmaxPass kPass>
TensorHandle backward(const TensorHandle& grad_output, const TensorHandle& output, int64_t dim) {
  const ReferenceOperand reference(output, "output");
  SoftmaxCall call = call_of(kPass, reference, dim);
  const Operand grad(grad_output, "grad_output", reference, Operand::Access::kRead);
  TensorHandle result = reference.result();
  call.in[0] = grad.data();
  call.in[1] = reference.data();
  call.out = result.data();
  run(reference, call);
  return result;
}

template <SoftmaxPass kPass>
void backward_out(const TensorHandle& grad_output, const TensorHandle& output, int64_t dim,
                  const TensorHandle& out) {
  const ReferenceOperand reference(output, "output");
  SoftmaxCall call = call_of(kPass, reference, dim);
  const Operand grad(grad_output, "grad_output", reference, Operand::Access::kRead);
  const Operand written(out, "out", reference, Operand::Access::kWrite);
  call.in[0] = grad.data();
  call.in[1] = reference.data();
  call.out = written.data();
  run(reference, call);
  written.commit();
}

void register_kernels(torch::stable::detail::StableLibrary& m) {
  using Pass = SoftmaxPass;
  m.impl("softmax", boxed_kernel<forward<Pass::kSoftmax>>);
  m.impl("softmax.out", boxed_kernel<forward_out<Pass::kSoftmax>>);
  m.impl("softmax_backward", boxed_kernel<backward<Pass::kSoftmaxBackward>>);
  m.impl("softmax_backward.out", boxed_kernel<backward_out<Pass::kSoftmaxBackward>>);
  m.impl("log_softmax", boxed_kernel<forward<Pass::kLogSoftmax>>);
  m.impl("log_softmax.out", boxed_kernel<forward_out<Pass::kLogSoftmax>>);
  m.impl("log_softmax_backward", boxed_kernel<backward<Pass::kLogSoftmaxBackward>>);
  m.impl("log_softmax_backward.out", boxed_kernel<backward_out<Pass::kLogSoftmaxBackward>>);
}

}  // namespace
}  // namespace gradkern

STABLE_TORCH_LIBRARY_FRAGMENT(gradkern, m) {
  m.def("softmax(Tensor input, int dim) -> Tensor");
  m.def("softmax.out(Tensor input, int dim, *, Tensor(a!) out) -> ()");
  m.def("softmax_backward(Tensor grad_output, Tensor output, int dim) -> Tensor");
  m.def(
      "softmax_backward.out(Tensor grad_output, Tensor output, int dim, *, Tensor(a!) out) -> ()");
  m.def("log_softmax(Tensor input, int dim) -> Tensor");
  m.def("log_softmax.out(Tensor input, int dim, *, Tensor(a!) out) -> ()");
  m.def("log_softmax_backward(Tensor grad_output, Tensor output, int dim) -> Tensor");
  m.def(
      "log_softmax_backward.out(Tensor grad_output, Tensor output, int dim, *, Tensor(a!) out)"
      " -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(gradkern, CPU, m) { gradkern::register_kernels(m); }
STABLE_TORCH_LIBRARY_IMPL(gradkern, CUDA, m) { gradkern::register_kernels(m); }
