// The operators of norms, statistics and clipping: schemas, and one adapter each for every device.
//
// An adapter checks its arguments (Python's public functions checked their types), allocates
// results, and calls the backend of the tensors' device. It touches no gradient before every check
// is done.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>

#include "torch_ops/backends.h"
#include "torch_ops/boxed_kernel.h"
#include "torch_ops/boxed_tensors.h"
#include "torch_ops/dense_tensors.h"
#include "torch_ops/fresh_tensors.h"

namespace gradkern {
namespace {

// Order 2 sees a complex number as its two parts; every other order sees its modulus.
ComplexAs complex_for(double order) { return order == 2 ? ComplexAs::kPairs : ComplexAs::kModulus; }

// The maximum or minimum of no elements does not exist, nor does a negative power of their sum.
// Where native has the function too (Error = Delegate), it says so in its own words.
template <class Error>
void require_elements(const DenseTensors& tensors, double order) {
  if ((order < 0 || std::isinf(order)) && tensors.has_empty()) {
    throw Error("a tensor is empty; the norm of order " + std::to_string(order) +
                " needs an element");
  }
}

TensorHandle empty_doubles(Device device, std::initializer_list<int64_t> sizes) {
  return empty(device, aoti_torch_dtype_float64(), sizes);
}

double* doubles(const TensorHandle& tensor) { return static_cast<double*>(tensor.data()); }

// Two 0-dim results: the total norm in float64, and rounded to the gradients' dtype.
struct Total {
  TensorHandle value, rounded;
  TotalNorm norm;

  explicit Total(const DenseTensors& tensors)
      : value(empty_doubles(tensors.device(), {})),
        rounded(empty(tensors.device(), torch_dtype(tensors.promoted()), {})),
        norm{doubles(value), rounded.data(), tensors.promoted()} {}
};

TensorHandle tensor_norms(const TensorList& tensors, double order, bool unitwise) {
  const DenseTensors dense(tensors, "tensors", Access::kRead, complex_for(order),
                           unitwise ? SegmentBy::kUnit : SegmentBy::kTensor);
  require_elements<std::runtime_error>(dense, order);
  const Backend& backend = backend_for(dense.device());
  const DeviceCall call(dense.device(), backend.workspace(dense.spans()));
  TensorHandle norms = empty_doubles(dense.device(), {dense.segments()});
  backend.norms(call.launch(), dense.spans(), order, doubles(norms), nullptr);
  return norms;
}

TensorHandle total_norm(const TensorList& tensors, double order) {
  const DenseTensors dense(tensors, "tensors", Access::kRead, complex_for(order));
  require_elements<Delegate>(dense, order);
  const Backend& backend = backend_for(dense.device());
  const DeviceCall call(dense.device(), backend.workspace(dense.spans()));
  const TensorHandle norms = empty_doubles(dense.device(), {dense.size()});
  TensorHandle total = empty_doubles(dense.device(), {});
  const TotalNorm result{doubles(total), nullptr, DType::kFloat64};
  backend.norms(call.launch(), dense.spans(), order, doubles(norms), &result);
  return total;
}

TensorHandle tensor_stats(const TensorList& tensors) {
  const DenseTensors dense(tensors, "tensors", Access::kRead);
  const Backend& backend = backend_for(dense.device());
  const DeviceCall call(dense.device(), backend.workspace(dense.spans()));
  TensorHandle statistics = empty_doubles(dense.device(), {dense.size(), kStatisticCount});
  backend.statistics(call.launch(), dense.spans(), doubles(statistics), 2, nullptr, nullptr);
  return statistics;
}

// Multiplies by the clip factor, tensor by tensor where two of them share memory. `reduced` is what
// the workspace holds partial results of: the tables there serve the whole list only.
void clip_in_place(const Backend& backend, const DeviceCall& call, const DenseTensors& grads,
                   const Clip& clip, bool after_reduction) {
  grads.change([&](TensorSpans spans, int64_t first_segment, bool all) {
    Clip part = clip;
    if (clip.rule != ClipRule::kTotalNorm) part.norm += first_segment;
    if (clip.weight_norm != nullptr) part.weight_norm += first_segment;
    backend.clip(call.launch(), spans, part, after_reduction && all);
  });
}

// The gradients as a norm of the given order sees them.
class Measured {
 public:
  Measured(const DenseTensors& grads, const TensorList& tensors, double order,
           SegmentBy segment_by = SegmentBy::kTensor)
      : grads_(grads) {
    if (order != 2 && grads.has_complex()) {
      moduli_.emplace(tensors, "grads", Access::kRead, ComplexAs::kModulus, segment_by);
    }
  }
  const DenseTensors& tensors() const { return moduli_ ? *moduli_ : grads_; }
  // Whether the workspace, after a reduction over these, describes the gradients themselves.
  bool are_grads() const { return !moduli_; }

 private:
  const DenseTensors& grads_;
  std::optional<DenseTensors> moduli_;
};

TensorHandle clip_grad_norm_(const TensorList& tensors, double max_norm, double order) {
  const DenseTensors grads(tensors, "grads", Access::kWrite);
  require_elements<Delegate>(grads, order);
  const Measured measured(grads, tensors, order);
  const Backend& backend = backend_for(grads.device());
  const DeviceCall call(grads.device(), backend.workspace(grads.spans()));
  const TensorHandle norms = empty_doubles(grads.device(), {grads.size()});
  Total total(grads);
  backend.norms(call.launch(), measured.tensors().spans(), order, doubles(norms), &total.norm);
  const Clip clip{ClipRule::kTotalNorm, total.norm.value, nullptr, max_norm, 0};
  clip_in_place(backend, call, grads, clip, measured.are_grads());
  return std::move(total.rounded);
}

std::tuple<TensorHandle, TensorHandle> clip_grad_norm_with_stats_(const TensorList& tensors,
                                                                  double max_norm, double order) {
  const DenseTensors grads(tensors, "grads", Access::kWrite);
  require_elements<std::runtime_error>(grads, order);
  const Measured measured(grads, tensors, order);
  const Backend& backend = backend_for(grads.device());
  const DeviceCall call(grads.device(), backend.workspace(grads.spans()));
  const TensorHandle norms = empty_doubles(grads.device(), {grads.size()});
  TensorHandle statistics = empty_doubles(grads.device(), {grads.size(), kStatisticCount});
  Total total(grads);
  // The statistics determine the norms of three orders.
  if (measured.are_grads() && (order == 2 || order == 0 || order == INFINITY)) {
    backend.statistics(call.launch(), grads.spans(), doubles(statistics), order, doubles(norms),
                       &total.norm);
  } else {
    backend.norms(call.launch(), measured.tensors().spans(), order, doubles(norms), &total.norm);
    backend.statistics(call.launch(), grads.spans(), doubles(statistics), 2, nullptr, nullptr);
  }
  const Clip clip{ClipRule::kTotalNorm, total.norm.value, nullptr, max_norm, 0};
  clip_in_place(backend, call, grads, clip, true);
  return {std::move(total.rounded), std::move(statistics)};
}

void clip_with_total_norm_(const TensorList& tensors, const TensorHandle& total_norm,
                           double max_norm) {
  const DenseTensors grads(tensors, "grads", Access::kWrite);
  if (total_norm.numel() != 1 || total_norm.dtype() != aoti_torch_dtype_float64() ||
      device_of(total_norm) != grads.device()) {
    throw std::invalid_argument("total_norm must be one float64 on the device of grads");
  }
  const Backend& backend = backend_for(grads.device());
  const DeviceCall call(grads.device(), backend.workspace(grads.spans()));
  const Clip clip{ClipRule::kTotalNorm, doubles(total_norm), nullptr, max_norm, 0};
  clip_in_place(backend, call, grads, clip, false);
}

TensorHandle clip_grad_norm_per_tensor_(const TensorList& tensors, double max_norm, double order) {
  const DenseTensors grads(tensors, "grads", Access::kWrite);
  require_elements<std::runtime_error>(grads, order);
  const Measured measured(grads, tensors, order);
  const Backend& backend = backend_for(grads.device());
  const DeviceCall call(grads.device(), backend.workspace(grads.spans()));
  TensorHandle norms = empty_doubles(grads.device(), {grads.size()});
  backend.norms(call.launch(), measured.tensors().spans(), order, doubles(norms), nullptr);
  const Clip clip{ClipRule::kEachNorm, doubles(norms), nullptr, max_norm, 0};
  clip_in_place(backend, call, grads, clip, measured.are_grads());
  return norms;
}

void adaptive_clip_grad_(const TensorList& grad_list, const TensorList& parameter_list,
                         double clip_factor, double eps, double order) {
  if (grad_list.size() != parameter_list.size()) {
    throw std::invalid_argument("grads has " + std::to_string(grad_list.size()) +
                                " tensors; it must have one for each of the " +
                                std::to_string(parameter_list.size()) + " parameters");
  }
  const DenseTensors grads(grad_list, "grads", Access::kWrite, ComplexAs::kPairs, SegmentBy::kUnit);
  const DenseTensors parameters(parameter_list, "parameters", Access::kRead, complex_for(order),
                                SegmentBy::kUnit);
  require_elements<std::runtime_error>(grads, order);
  if (parameters.device() != grads.device() || parameters.segments() != grads.segments()) {
    throw std::invalid_argument("grads and parameters must have the same shapes and device");
  }
  const Measured measured(grads, grad_list, order, SegmentBy::kUnit);
  const Backend& backend = backend_for(grads.device());
  const DeviceCall call(grads.device(), std::max(backend.workspace(grads.spans()),
                                                 backend.workspace(parameters.spans())));
  const TensorHandle norms = empty_doubles(grads.device(), {2, grads.segments()});
  double* grad_norms = doubles(norms);
  double* weight_norms = grad_norms + grads.segments();
  backend.norms(call.launch(), parameters.spans(), order, weight_norms, nullptr);
  backend.norms(call.launch(), measured.tensors().spans(), order, grad_norms, nullptr);
  const Clip clip{ClipRule::kWeightNorm, grad_norms, weight_norms, clip_factor, eps};
  clip_in_place(backend, call, grads, clip, measured.are_grads());
}

void clip_grad_value_(const TensorList& tensors, double clip_value) {
  const DenseTensors grads(tensors, "grads", Access::kWrite);
  const Backend& backend = backend_for(grads.device());
  const DeviceCall call(grads.device(), backend.workspace(grads.spans()));
  grads.change(
      [&](TensorSpans spans, int64_t, bool) { backend.clamp(call.launch(), spans, clip_value); });
}

// CPU and CUDA tensors run the same adapters.
void register_adapters(torch::stable::detail::StableLibrary& m) {
  m.impl("tensor_norms", boxed_kernel<tensor_norms>);
  m.impl("total_norm", boxed_kernel<total_norm>);
  m.impl("tensor_stats", boxed_kernel<tensor_stats>);
  m.impl("clip_grad_norm_", boxed_kernel<clip_grad_norm_>);
  m.impl("clip_grad_norm_with_stats_", boxed_kernel<clip_grad_norm_with_stats_>);
  m.impl("clip_with_total_norm_", boxed_kernel<clip_with_total_norm_>);
  m.impl("clip_grad_norm_per_tensor_", boxed_kernel<clip_grad_norm_per_tensor_>);
  m.impl("adaptive_clip_grad_", boxed_kernel<adaptive_clip_grad_>);
  m.impl("clip_grad_value_", boxed_kernel<clip_grad_value_>);
}

}  // namespace
}  // namespace gradkern

STABLE_TORCH_LIBRARY(gradkern, m) {
  m.def("tensor_norms(Tensor[] tensors, float norm_type, bool unitwise=False) -> Tensor");
  m.def("total_norm(Tensor[] tensors, float norm_type) -> Tensor");
  m.def("tensor_stats(Tensor[] tensors) -> Tensor");
  m.def("clip_grad_norm_(Tensor(a!)[] grads, float max_norm, float norm_type) -> Tensor");
  m.def(
      "clip_grad_norm_with_stats_(Tensor(a!)[] grads, float max_norm, float norm_type) "
      "-> (Tensor, Tensor)");
  m.def("clip_with_total_norm_(Tensor(a!)[] grads, Tensor total_norm, float max_norm) -> ()");
  m.def(
      "clip_grad_norm_per_tensor_(Tensor(a!)[] grads, float max_norm, float norm_type) -> Tensor");
  m.def(
      "adaptive_clip_grad_(Tensor(a!)[] grads, Tensor[] parameters, float clip_factor, float eps, "
      "float norm_type) -> ()");
  m.def("clip_grad_value_(Tensor(a!)[] grads, float clip_value) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(gradkern, CPU, m) { gradkern::register_adapters(m); }
STABLE_TORCH_LIBRARY_IMPL(gradkern, CUDA, m) { gradkern::register_adapters(m); }
