// gradkern._core: the kernels for NumPy arrays, build information, and the loading of backends.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "backend.h"
#include "build_config.h"
#include "torch_ops/registry.h"

namespace py = pybind11;

namespace gradkern {
namespace {

DType dtype_of(const py::array& array, const std::string& name) {
  // ml_dtypes' bfloat16 is a user-defined dtype: only its name tells.
  const std::string dtype = py::str(array.dtype());
  if (dtype == "float32") return DType::kFloat32;
  if (dtype == "float64") return DType::kFloat64;
  if (dtype == "float16") return DType::kFloat16;
  if (dtype == "bfloat16") return DType::kBFloat16;
  throw py::type_error(name + " has dtype " + dtype +
                       "; it must be float32, float64, float16 or bfloat16");
}

bool is_dense(const py::array& array) {
  return (array.flags() & (py::array::c_style | py::array::f_style)) != 0;
}

std::vector<TensorSpan> spans_of(const std::vector<py::array>& arrays, bool writable) {
  std::vector<TensorSpan> spans;
  spans.reserve(arrays.size());
  for (size_t i = 0; i < arrays.size(); i++) {
    const std::string name = "arrays[" + std::to_string(i) + "]";
    const py::array& array = arrays[i];
    const DType dtype = dtype_of(array, name);
    if (!is_dense(array)) throw py::value_error(name + " must be contiguous");
    if (writable && !array.writeable()) {
      throw py::value_error(name + " is read-only; it must be writeable to be changed in place");
    }
    const int64_t numel = array.size();
    spans.push_back({const_cast<void*>(array.data()), numel, numel, dtype});
  }
  return spans;
}

TensorSpans view(const std::vector<TensorSpan>& spans) {
  return {spans.data(), static_cast<int64_t>(spans.size())};
}

Launch numpy_launch() { return {0, nullptr, &registry::executor(), nullptr}; }

py::array_t<double> tensor_stats(const std::vector<py::array>& arrays) {
  const auto spans = spans_of(arrays, false);
  py::array_t<double> result(
      {static_cast<py::ssize_t>(spans.size()), static_cast<py::ssize_t>(kStatisticCount)});
  double* rows = result.mutable_data();
  py::gil_scoped_release release;
  registry::cpu_backend().statistics(numpy_launch(), view(spans), rows, 2, nullptr, nullptr);
  return result;
}

double total_norm(const std::vector<py::array>& arrays, double order) {
  const auto spans = spans_of(arrays, false);
  std::vector<double> norms(spans.size());
  double value = 0;
  const TotalNorm total{&value, nullptr, DType::kFloat64};
  py::gil_scoped_release release;
  registry::cpu_backend().norms(numpy_launch(), view(spans), order, norms.data(), &total);
  return value;
}

void clip_with_total_norm(const std::vector<py::array>& arrays, double total_norm,
                          double max_norm) {
  const auto spans = spans_of(arrays, true);
  py::gil_scoped_release release;
  registry::cpu_backend().clip(numpy_launch(), view(spans),
                               {ClipRule::kTotalNorm, &total_norm, nullptr, max_norm, 0}, false);
}

void clip_by_value(const std::vector<py::array>& arrays, double bound) {
  const auto spans = spans_of(arrays, true);
  py::gil_scoped_release release;
  registry::cpu_backend().clamp(numpy_launch(), view(spans), bound);
}

uint64_t read_all(uintptr_t pointer, size_t nbytes) {
  py::gil_scoped_release release;
  return registry::read_all(reinterpret_cast<const void*>(pointer), nbytes);
}

std::vector<std::string> runnable_isas() {
  std::vector<std::string> names;
  for (const char* const* name = registry::runnable_isas(); *name != nullptr; name++) {
    names.emplace_back(*name);
  }
  return names;
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "gradkern's kernels for NumPy arrays, build information and backends";
  m.attr("version") = kVersion;
  m.attr("torch_built") = kTorchVersion;
  m.attr("cuda_built") = kCudaBuilt;
  m.attr("cuda_architectures") = kCudaArchitectures;
  m.attr("statistics") = py::make_tuple("count", "sum", "sum_squares", "abs_max", "abs_min_nonzero",
                                        "zeros", "nans", "infs");

  m.def("cpu_isa", [] { return std::string(registry::cpu_isa()); });
  m.def("runnable_isas", &runnable_isas);
  m.def(
      "load_backend",
      [](const std::string& name, const std::string& path) {
        return std::string(registry::load(name.c_str(), path.c_str()));
      },
      py::arg("name"), py::arg("path"));
  m.def(
      "serve_cpu_with", [](const std::string& name) { registry::serve_cpu_with(name.c_str()); },
      py::arg("name"));

  m.def("tensor_stats", &tensor_stats, py::arg("arrays"));
  m.def("total_norm", &total_norm, py::arg("arrays"), py::arg("norm_type"));
  m.def("clip_with_total_norm", &clip_with_total_norm, py::arg("arrays"), py::arg("total_norm"),
        py::arg("max_norm"));
  m.def("clip_by_value", &clip_by_value, py::arg("arrays"), py::arg("clip_value"));
  m.def("read_all", &read_all, py::arg("pointer"), py::arg("nbytes"));
}

}  // namespace gradkern
