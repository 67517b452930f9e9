#include "python/torch_door.h"

#include <cmath>
#include <optional>
#include <vector>

#include "backend.h"
#include "python/torch_gradients.h"
#include "torch_ops/registry.h"

namespace py = pybind11;

namespace gradkern {
namespace {

bool has_empty(TensorSpans tensors) {
  for (const TensorSpan& span : tensors) {
    if (span.numel == 0) return true;
  }
  return false;
}

// What the operator clip_grad_norm_ does: the unrounded total norm, and the number of its DType.
// None, with nothing touched, where the operator has to do it. `say_written` is called with lists
// of the gradients.
py::object clip_grad_norm(const py::list& parameters, double max_norm, double order,
                          const py::function& say_written) {
  const std::optional<TorchGradients> gradients = torch_gradients(parameters);
  if (!gradients) return py::none();
  const TensorSpans spans = gradients->view();
  // The norm does not exist, which native says in its own words.
  if ((order < 0 || std::isinf(order)) && has_empty(spans)) return py::none();

  double value = 0;
  {
    py::gil_scoped_release release;
    const Backend& backend = registry::cpu_backend();
    std::vector<double> workspace(backend.workspace(spans) / sizeof(double) + 1);
    std::vector<double> norms(spans.size);
    const Launch launch{0, nullptr, &registry::executor(), workspace.data()};
    const TotalNorm total{&value, nullptr, DType::kFloat64};
    backend.norms(launch, spans, order, norms.data(), &total);
    backend.clip(launch, spans, {ClipRule::kTotalNorm, &value, nullptr, max_norm, 0}, true);
  }
  gradients->say_written(say_written);
  return py::make_tuple(value, static_cast<int>(gradients->promoted));
}

}  // namespace

void define_torch_door(py::module_& m) {
  m.def("read_gradients_through", &read_gradients_through, py::arg("exchange"), py::arg("types"));
  m.def("clip_grad_norm", &clip_grad_norm, py::arg("parameters"), py::arg("max_norm"),
        py::arg("norm_type"), py::arg("say_written"));
}

}  // namespace gradkern
