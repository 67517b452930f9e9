// gradkern._core: the kernels for NumPy arrays, build information, and the loading of backends.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <iterator>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "backend.h"
#include "batch_norm_call.h"
#include "build_config.h"
#include "channelwise_call.h"
#include "formulas/activation_table.h"
#include "formulas/batch_norm_activations.h"
#include "formulas/channelwise_activations.h"
#include "formulas/gated_activations.h"
#include "gated_call.h"
#include "python/torch_door.h"
#include "rrelu_call.h"
#include "softmax_call.h"
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

TensorSpan span_of(const py::array& array, const std::string& name, bool writable) {
  const DType dtype = dtype_of(array, name);
  if (!is_dense(array)) throw py::value_error(name + " must be contiguous");
  if (writable && !array.writeable()) {
    throw py::value_error(name + " is read-only; it must be writeable to be changed in place");
  }
  const int64_t numel = array.size();
  return {const_cast<void*>(array.data()), numel, numel, dtype};
}

std::vector<TensorSpan> spans_of(const std::vector<py::array>& arrays, bool writable) {
  std::vector<TensorSpan> spans;
  spans.reserve(arrays.size());
  for (size_t i = 0; i < arrays.size(); i++) {
    spans.push_back(span_of(arrays[i], "arrays[" + std::to_string(i) + "]", writable));
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

// ---- activations -------------------------------------------------------------------------------

py::dict row_of(const formulas::ActivationRow& row) {
  py::list parameters;
  for (int i = 0; i < row.parameter_count; i++) {
    parameters.append(py::make_tuple(row.parameters[i].name, row.parameters[i].standard));
  }
  return py::dict(py::arg("name") = row.name, py::arg("module") = row.module,
                  py::arg("summary") = row.summary, py::arg("expression") = row.expression,
                  py::arg("source") = row.source, py::arg("saturation") = row.saturation,
                  py::arg("parameters") = py::tuple(parameters),
                  py::arg("saves_output") = row.saves_output, py::arg("smooth") = row.smooth);
}

py::tuple activation_table() {
  py::list rows;
  for (const formulas::ActivationRow& row : formulas::activation_rows()) rows.append(row_of(row));
  return py::tuple(rows);
}

// One pass over `input`; the outputs have its dtype, size and memory order.
void activation(int row, ActivationPass pass, const py::array& input,
                const std::vector<py::array>& outputs, const std::vector<double>& parameters) {
  const TensorSpan from = span_of(input, "x", false);
  ActivationCall call{row, pass, from.dtype, from.numel, {}, {from.data}, {}};
  std::copy(parameters.begin(), parameters.end(), call.parameters);
  formulas::activation_rows()[row].validate(call.parameters);
  for (size_t k = 0; k < outputs.size(); k++) {
    call.out[k] = span_of(outputs[k], "out", true).data;
  }
  if (call.numel == 0) return;
  py::gil_scoped_release release;
  registry::cpu_backend().activation(numpy_launch(), call);
}

// Pairs of names: of the operator, and of the activation of the table that opens the gate.
py::tuple gated_activations() {
  py::list rows;
  formulas::GatedActivations::each([&](int, auto formula) {
    using Formula = decltype(formula);
    rows.append(py::make_tuple(Formula::kName, Formula::Activation::kName));
  });
  return py::tuple(rows);
}

// The same for activations with a parameter for each channel, with the parameter's name.
py::tuple channelwise_activations() {
  py::list rows;
  formulas::ChannelwiseActivations::each([&](int, auto formula) {
    using Formula = decltype(formula);
    rows.append(py::make_tuple(Formula::kName, Formula::Activation::kName, Formula::kWeight));
  });
  return py::tuple(rows);
}

// From a row to the next, in elements.
int64_t row_stride(const py::array& rows) { return rows.strides(0) / rows.itemsize(); }

// The arrays have two dimensions, one shape and dtype; the elements of a row lie side by side.
void gated(int activation, const py::array& gate, const py::array& up, py::array output) {
  GatedCall call{activation,
                 GatedPass::kValue,
                 dtype_of(gate, "gate"),
                 gate.shape(0),
                 gate.shape(1),
                 {gate.data(), up.data()},
                 {output.mutable_data()},
                 {row_stride(gate), row_stride(up)},
                 {row_stride(output)}};
  if (gate.size() == 0) return;
  const int64_t strides[] = {call.in_stride[0], call.in_stride[1], call.out_stride[0]};
  if (std::all_of(std::begin(strides), std::end(strides),
                  [&](int64_t stride) { return stride == call.columns; })) {
    call.columns *= call.rows;
    call.rows = 1;
  }
  py::gil_scoped_release release;
  registry::cpu_backend().gated(numpy_launch(), call);
}

// The channels are as in ChannelwiseCall; the output has the input's dtype, size and memory order.
void channelwise(int activation, const py::array& input, const py::array& weight,
                 const py::array& output, int64_t channels, int64_t inner) {
  const TensorSpan from = span_of(input, "x", false);
  const TensorSpan weights = span_of(weight, "weight", false);
  const TensorSpan to = span_of(output, "output", true);
  if (from.numel == 0) return;
  const ChannelwiseCall call{activation,  ChannelwisePass::kValue,
                             from.dtype,  from.numel / (channels * inner),
                             channels,    inner,
                             {from.data}, weights.data,
                             to.data,     nullptr};
  py::gil_scoped_release release;
  registry::cpu_backend().channelwise(numpy_launch(), call);
}

// The output has the input's dtype, size and memory order.
void rrelu(const py::array& input, const py::array& output, double lower, double upper,
           int64_t seed) {
  const TensorSpan from = span_of(input, "x", false), to = span_of(output, "output", true);
  if (from.numel == 0) return;
  const RreluCall call{RreluPass::kValue, from.dtype, from.numel, lower, upper, &seed,
                       {from.data},       to.data};
  py::gil_scoped_release release;
  registry::cpu_backend().rrelu(numpy_launch(), call);
}

// Rows of `size` elements, `inner` apart; the output has the input's dtype, size and memory order.
void softmax(SoftmaxPass pass, const py::array& input, const py::array& output, int64_t size,
             int64_t inner) {
  const TensorSpan from = span_of(input, "x", false);
  const TensorSpan to = span_of(output, "output", true);
  if (from.numel == 0) return;
  const SoftmaxCall call{pass,        from.dtype, from.numel / (size * inner), size, inner,
                         {from.data}, to.data};
  py::gil_scoped_release release;
  registry::cpu_backend().softmax(numpy_launch(), call);
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

// ---- batch normalisation ------------------------------------------------------------------------

// What it fuses, in the order of the operators' numbers.
py::tuple batch_norm_activations() {
  py::list names;
  formulas::BatchNormActivations::each(
      [&](int, auto formula) { names.append(decltype(formula)::kName); });
  return py::tuple(names);
}

// The operators' numbers of what has gradients from its output.
py::dict batch_norm_activations_of_output() {
  py::dict numbers;
  formulas::BatchNormGradients::each([&](int index, auto formula) {
    if (formulas::is_of_output(index)) numbers[decltype(formula)::kName] = index;
  });
  return numbers;
}

const void* data_or_null(const std::optional<py::array>& array, const char* name) {
  return array ? span_of(*array, name, false).data : nullptr;
}

// What both directions are given. Arrays of elements are in one memory order; weight and bias have
// one dtype.
BatchNormCall batch_norm_call(BatchNormPass pass, const py::array& x,
                              const std::optional<py::array>& weight,
                              const std::optional<py::array>& bias,
                              const std::optional<py::array>& residual, int64_t channels,
                              int64_t inner, int activation, double parameter) {
  const TensorSpan from = span_of(x, "x", false);
  BatchNormCall call{};
  call.pass = pass;
  call.dtype = from.dtype;
  call.channels = channels;
  call.inner = inner;
  call.outer = from.numel / (channels * inner);
  call.activation = activation;
  call.parameters[0] = parameter;
  if (weight || bias) call.parameter_dtype = dtype_of(weight ? *weight : *bias, "weight");
  call.weight = data_or_null(weight, "weight");
  call.bias = data_or_null(bias, "bias");
  call.x = from.data;
  call.residual = data_or_null(residual, "residual");
  return call;
}

void batch_norm_forward(const py::array& x, const std::optional<py::array>& weight,
                        const std::optional<py::array>& bias,
                        const std::optional<py::array>& residual, int64_t channels, int64_t inner,
                        double eps, int activation, double parameter, const py::array& y,
                        py::array_t<double> mean, py::array_t<double> invstd) {
  BatchNormCall call = batch_norm_call(BatchNormPass::kForward, x, weight, bias, residual, channels,
                                       inner, activation, parameter);
  call.eps = eps;
  call.y = span_of(y, "y", true).data;
  call.mean = mean.mutable_data();
  call.invstd = invstd.mutable_data();
  py::gil_scoped_release release;
  registry::cpu_backend().batch_norm(numpy_launch(), call);
}

void batch_norm_backward(const py::array& grad_output, const py::array& x,
                         const std::optional<py::array>& weight,
                         const std::optional<py::array>& bias,
                         const std::optional<py::array>& residual, int64_t channels, int64_t inner,
                         int activation, double parameter, py::array_t<double> mean,
                         py::array_t<double> invstd, const py::array& dx,
                         const std::optional<py::array>& dresidual, py::array_t<double> dweight,
                         py::array_t<double> dbias) {
  BatchNormCall call = batch_norm_call(BatchNormPass::kBackward, x, weight, bias, residual,
                                       channels, inner, activation, parameter);
  call.mean = mean.mutable_data();
  call.invstd = invstd.mutable_data();
  call.grad_output = span_of(grad_output, "grad_output", false).data;
  call.grad_input = span_of(dx, "dx", true).data;
  call.grad_residual = dresidual ? span_of(*dresidual, "dresidual", true).data : nullptr;
  call.sum_dz_xhat = dweight.mutable_data();
  call.sum_dz = dbias.mutable_data();
  py::gil_scoped_release release;
  registry::cpu_backend().batch_norm(numpy_launch(), call);
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
  m.attr("activations") = activation_table();
  m.attr("batch_norm_activations") = batch_norm_activations();
  m.attr("batch_norm_activations_of_output") = batch_norm_activations_of_output();
  m.attr("gated_activations") = gated_activations();
  m.attr("channelwise_activations") = channelwise_activations();
  m.attr("activation_statistics") =
      py::make_tuple("count", "sum", "sum_squares", "abs_max", "zeros", "nonfinite", "saturated",
                     "sum_abs_derivative");
  py::enum_<ActivationPass>(m, "ActivationPass")
      .value("VALUE", ActivationPass::kValue)
      .value("DERIVATIVE", ActivationPass::kDerivative)
      .value("VALUE_AND_DERIVATIVE", ActivationPass::kValueAndDerivative);
  m.def("activation", &activation, py::arg("row"), py::arg("activation_pass"), py::arg("input"),
        py::arg("outputs"), py::arg("parameters"));
  m.def("gated", &gated, py::arg("activation"), py::arg("gate"), py::arg("up"), py::arg("output"));
  m.def("channelwise", &channelwise, py::arg("activation"), py::arg("input"), py::arg("weight"),
        py::arg("output"), py::arg("channels"), py::arg("inner"));
  m.def("rrelu", &rrelu, py::arg("input"), py::arg("output"), py::arg("lower"), py::arg("upper"),
        py::arg("seed"));
  py::enum_<SoftmaxPass>(m, "SoftmaxPass")
      .value("SOFTMAX", SoftmaxPass::kSoftmax)
      .value("LOG_SOFTMAX", SoftmaxPass::kLogSoftmax);
  m.def("softmax", &softmax, py::arg("softmax_pass"), py::arg("input"), py::arg("output"),
        py::arg("size"), py::arg("inner"));
  m.def("batch_norm_forward", &batch_norm_forward, py::arg("x"), py::arg("weight"), py::arg("bias"),
        py::arg("residual"), py::arg("channels"), py::arg("inner"), py::arg("eps"),
        py::arg("activation"), py::arg("parameter"), py::arg("y"), py::arg("mean"),
        py::arg("invstd"));
  m.def("batch_norm_backward", &batch_norm_backward, py::arg("grad_output"), py::arg("x"),
        py::arg("weight"), py::arg("bias"), py::arg("residual"), py::arg("channels"),
        py::arg("inner"), py::arg("activation"), py::arg("parameter"), py::arg("mean"),
        py::arg("invstd"), py::arg("dx"), py::arg("dresidual"), py::arg("dweight"),
        py::arg("dbias"));
  m.def("read_all", &read_all, py::arg("pointer"), py::arg("nbytes"));

  define_torch_door(m);
}

}  // namespace gradkern
