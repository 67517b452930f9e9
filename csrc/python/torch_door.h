// The kernels for torch's CPU tensors that need no operator.
#pragma once

#include <pybind11/pybind11.h>

namespace gradkern {

void define_torch_door(pybind11::module_& m);

}  // namespace gradkern
