#include "python/torch_gradients.h"

#include <algorithm>
#include <utility>

#include "memory_extents.h"
#include "python/dlpack_exchange.h"

namespace py = pybind11;

namespace gradkern {
namespace {

// Never unloaded: torch's types and its table live as long as the process.
std::vector<PyObject*> g_types;
// Whether a tensor's object begins with a pointer to the tensor, as torch 2.10 to 2.14 have it. Not
// known before the first gradient: an example made when the module loads would be of another type
// inside of a mode (FakeTensorMode).
std::optional<bool> g_objects_begin_with_tensor;
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

// The attribute `grad` of one object after the other. What the name means is asked once for all of
// a type.
class GradAttribute {
 public:
  // Null, with a Python exception set, if it fails.
  py::object operator()(PyObject* object) {
    PyTypeObject* type = Py_TYPE(object);
    if (type != type_) look_up(type);
    PyObject* getter = getter_.ptr();
    PyObject* value = getter == nullptr ? PyObject_GetAttr(object, name())
                                        : Py_TYPE(getter)->tp_descr_get(
                                              getter, object, reinterpret_cast<PyObject*>(type));
    return py::reinterpret_steal<py::object>(value);
  }

 private:
  static PyObject* name() {
    static PyObject* const interned = PyUnicode_InternFromString("grad");
    return interned;
  }

  // Only of a getter in C, which goes before what an object itself has under the name.
  void look_up(PyTypeObject* type) {
    type_ = type;
    getter_ = py::object();
    if (type->tp_getattro != PyObject_GenericGetAttr) return;
    auto found = py::reinterpret_steal<py::object>(
        PyObject_GetAttr(reinterpret_cast<PyObject*>(type), name()));
    if (!found) {
      forget_error();
    } else if (Py_TYPE(found.ptr()) == &PyGetSetDescr_Type) {
      getter_ = std::move(found);
    }
  }

  PyTypeObject* type_ = nullptr;
  py::object getter_;
};

// Reading a parameter's gradient goes from pointer to pointer, and so does looking at the gradient;
// of 2000 that have left the cache it takes 1.7 times as long if nothing is asked for ahead.
using Tensor = const void* const*;
constexpr int kStorage = 2, kAutograd = 3, kVersion = 5;  // pointers among a tensor's members

Tensor first_member(PyObject* object) { return *reinterpret_cast<Tensor*>(object + 1); }

void look_at_layout(const py::handle tensor) {
  if (g_objects_begin_with_tensor) return;
  const py::object address = py::getattr(tensor, "_cdata", py::none());
  const py::int_ found(reinterpret_cast<uintptr_t>(first_member(tensor.ptr())));
  g_objects_begin_with_tensor = address.equal(found);
}

// Null where the object is no plain tensor, or leads to none.
Tensor tensor_of(PyObject* object) {
  return g_objects_begin_with_tensor.value_or(false) && is_plain(object) ? first_member(object)
                                                                         : nullptr;
}

void prefetch_object(PyObject* object) { __builtin_prefetch(object); }
void prefetch_tensor(PyObject* object) {
  const char* tensor = reinterpret_cast<const char*>(tensor_of(object));
  for (int line = 0; line < 3; line++) __builtin_prefetch(tensor + 64 * line);
}
template <int kMember>
void prefetch_of_tensor(PyObject* object) {
  if (const Tensor tensor = tensor_of(object)) __builtin_prefetch(tensor[kMember]);
}

// Gradients that are found before the first of them is looked at.
constexpr size_t kBlock = 16;
// Tensors that are said to be written in one call.
constexpr size_t kWritten = 64;

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
  GradAttribute grad_of;
  TorchGradients gradients;
  std::vector<Extent> extents;
  gradients.spans.reserve(parameters.size());
  extents.reserve(parameters.size());
  // By index and with the present size: an attribute's getter may change the list.
  size_t next = 0;
  const auto ahead = [&](size_t distance, auto prefetch) {
    if (next + distance < parameters.size()) {
      prefetch(PyList_GET_ITEM(parameters.ptr(), static_cast<Py_ssize_t>(next + distance)));
    }
  };
  while (next < parameters.size()) {
    const size_t first = gradients.tensors.size();
    for (const size_t end = next + kBlock; next < end && next < parameters.size(); next++) {
      ahead(24, prefetch_object);
      ahead(16, prefetch_tensor);
      ahead(8, prefetch_of_tensor<kAutograd>);
      const py::object parameter = parameters[next];
      const py::object grad = grad_of(parameter.ptr());
      if (!grad) {
        forget_error();
        return std::nullopt;
      }
      if (grad.is_none()) continue;
      if (!is_plain(grad.ptr())) return std::nullopt;
      look_at_layout(grad);
      prefetch_tensor(grad.ptr());
      gradients.tensors.append(grad);
    }
    for (size_t i = first; i < gradients.tensors.size(); i++) {
      prefetch_of_tensor<kStorage>(gradients.tensors[i].ptr());
    }
    for (size_t i = first; i < gradients.tensors.size(); i++) {
      const std::optional<TensorSpan> span = span_of(gradients.tensors[i].ptr());
      if (!span) return std::nullopt;
      gradients.promoted = i == 0 ? span->dtype : promote(gradients.promoted, span->dtype);
      const char* begin = static_cast<const char*>(span->data);
      extents.push_back({begin, begin + span->numel * element_size(span->dtype)});
      gradients.spans.push_back(*span);
    }
  }
  if (gradients.spans.empty() || is_inference(gradients.tensors) || share_memory(extents)) {
    return std::nullopt;
  }
  return gradients;
}

void TorchGradients::say_written(const py::function& say) const {
  const auto each = [&](size_t begin, size_t end, auto prefetch) {
    for (size_t i = begin; i < std::min(end, tensors.size()); i++) prefetch(tensors[i].ptr());
  };
  each(0, kWritten, prefetch_tensor);
  for (size_t begin = 0; begin < tensors.size(); begin += kWritten) {
    const size_t end = begin + kWritten;
    each(end, end + kWritten, prefetch_tensor);
    each(begin, end, prefetch_of_tensor<kVersion>);
    say(tensors[py::slice(static_cast<py::ssize_t>(begin), static_cast<py::ssize_t>(end), 1)]);
  }
}

}  // namespace gradkern
