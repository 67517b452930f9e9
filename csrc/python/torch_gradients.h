// Gradients of torch parameters as the spans of dense memory that backends work on, taken from
// Python objects without torch's dispatcher.
//
// Handing 2000 tensors of 256 elements to an operator takes longer than clipping them (200 us of a
// call of 710): they are boxed, scanned for dispatch keys, and copied into handles. DLPack's C
// exchange gives the same facts in one call for each. What is not plain is left to the operator.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>
#include <vector>

#include "backend.h"

namespace gradkern {

struct TorchGradients {
  pybind11::list tensors;  // keeps them alive
  std::vector<TensorSpan> spans;
  DType promoted;

  TensorSpans view() const { return {spans.data(), static_cast<int64_t>(spans.size())}; }

  // Calls say(list of tensors) until all have been in one, with what it reads in the cache.
  void say_written(const pybind11::function& say) const;
};

// `exchange` is the capsule `__dlpack_c_exchange_api__`; `types` are the exact types it may be used
// for.
void read_gradients_through(const pybind11::object& exchange, const pybind11::tuple& types);

// The gradients of a list of parameters that have one; nothing if there is none, or if an operator
// has to look at them: one is of another type, not on the CPU, not contiguous, complex, integer, an
// inference tensor, or shares memory with another one.
std::optional<TorchGradients> torch_gradients(const pybind11::list& parameters);

}  // namespace gradkern
