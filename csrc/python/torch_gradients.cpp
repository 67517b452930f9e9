#include "python/torch_gradients.h"

#include <utility>

#include "memory_extents.h"
#include "python/dlpack_exchange.h"

namespace py = pybind11;

namespace gradkern {
namespace {

// Never unloaded: torch's types and its table live as long as the process.
std::vector<PyObject*> g_types;
int (*g_tensor_from_object)(void* object, dlpack::Tensor* tensor) = nullptr;

bool is_plain(PyObject* tensor) {
  PyObject* type = reinterpret_cast<PyObject*>(Py_TYPE(tensor));
  for (PyObject* plain : g_types) {
    if (type == plain) return true;
  }
  return false;
}

// A Python call failed: whatever it was, the operator's own path says so better. An interrupt is
// not about the tensor.
void forget_error() {
  if (!PyErr_ExceptionMatches(PyExc_Exception)) throw py::error_already_set();
  PyErr_Clear();
}

std::optional<DType> dtype_of(dlpack::DataType dtype) {
  if (dtype.lanes != 1) return std::nullopt;
  if (dtype.code == dlpack::kBFloat && dtype.bits == 16) return DType::kBFloat16;
  if (dtype.code != dlpack::kFloat) return std::nullopt;
  switch (dtype.bits) {
    case 16:
      return DType::kFloat16;
    case 32:
      return DType::kFloat32;
    case 64:
      return DType::kFloat64;
  }
  return std::nullopt;
}

// Elements of a row-major tensor without gaps; nothing for any other.
std::optional<int64_t> contiguous_numel(const dlpack::Tensor& tensor) {
  int64_t numel = 1;
  bool contiguous = true;
  for (int32_t d = tensor.ndim; d-- > 0;) {
    const int64_t size = tensor.shape[d];
    contiguous &= size == 1 || tensor.strides == nullptr || tensor.strides[d] == numel;
    numel *= size;
  }
  if (!contiguous && numel != 0) return std::nullopt;
  return numel;
}

std::optional<TensorSpan> span_of(PyObject* object) {
  dlpack::Tensor tensor;
  if (g_tensor_from_object(object, &tensor) != 0) {
    forget_error();
    return std::nullopt;
  }
  const std::optional<DType> dtype = dtype_of(tensor.dtype);
  const std::optional<int64_t> numel = contiguous_numel(tensor);
  if (!dtype || !numel || tensor.device.type != dlpack::kCpu) return std::nullopt;
  // A tensor of zeros that torch never stored (torch._efficientzerotensor).
  if (tensor.data == nullptr && *numel != 0) return std::nullopt;
  return TensorSpan{static_cast<char*>(tensor.data) + tensor.byte_offset, *numel, *numel, *dtype};
}

// Gradients are alike in this: one is asked.
bool is_inference(const py::list& tensors) {
  return tensors[0].attr("is_inference")().cast<bool>();
}

}  // namespace

void read_gradients_through(const py::object& exchange, const py::tuple& types) {
  auto* api =
      static_cast<dlpack::ExchangeApi*>(PyCapsule_GetPointer(exchange.ptr(), dlpack::kCapsuleName));
  if (api == nullptr) throw py::error_already_set();
  while (api != nullptr && api->major != dlpack::kMajorVersion) api = api->previous;
  if (api == nullptr) return;
  for (const py::handle type : types) g_types.push_back(type.inc_ref().ptr());
  g_tensor_from_object = api->tensor_from_object;
}

std::optional<TorchGradients> torch_gradients(const py::list& parameters) {
  if (g_tensor_from_object == nullptr) return std::nullopt;
  static PyObject* const grad_name = PyUnicode_InternFromString("grad");
  TorchGradients gradients;
  std::vector<Extent> extents;
  gradients.spans.reserve(parameters.size());
  extents.reserve(parameters.size());
  // By index and with the present size: an attribute's getter may change the list.
  for (size_t i = 0; i < parameters.size(); i++) {
    const py::object parameter = parameters[i];
    const auto grad =
        py::reinterpret_steal<py::object>(PyObject_GetAttr(parameter.ptr(), grad_name));
    if (!grad) {
      forget_error();
      return std::nullopt;
    }
    if (grad.is_none()) continue;
    if (!is_plain(grad.ptr())) return std::nullopt;
    const std::optional<TensorSpan> span = span_of(grad.ptr());
    if (!span) return std::nullopt;
    gradients.promoted =
        gradients.spans.empty() ? span->dtype : promote(gradients.promoted, span->dtype);
    const char* begin = static_cast<const char*>(span->data);
    extents.push_back({begin, begin + span->numel * element_size(span->dtype)});
    gradients.spans.push_back(*span);
    gradients.tensors.append(grad);
  }
  if (gradients.spans.empty() || is_inference(gradients.tensors) || share_memory(extents)) {
    return std::nullopt;
  }
  return gradients;
}

}  // namespace gradkern
