// Shared arrays for kernels that are written for simt.h alone. A kernel that nvcc compiles as well
// wants a function that does this on the host and returns a __shared__ array on the device.
#pragma once

#include "engine.h"

namespace simt {

// The block's array of N values for `Tag`, any type: two arrays of a kernel need two tags.
template <class Tag, class T, int N>
T (&shared_array(const char* name = "a shared array"))
[N] {
  static const char key = 0;
  return *static_cast<T(*)[N]>(shared_static(&key, sizeof(T[N]), name));
}

}  // namespace simt
