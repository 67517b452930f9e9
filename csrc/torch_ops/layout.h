// How a tensor's elements lie in memory.
#pragma once

#include <cstdint>

#include "torch_ops/boxed_tensors.h"

namespace gradkern {

struct Layout {
  bool dense;          // no gaps, no overlap, in some order of the dimensions
  bool unit_is_outer;  // dense, and the elements of one index of dimension 0 are contiguous
  bool overlaps;       // two elements at one place
  int64_t extent;      // in elements, from the first to behind the last
};

Layout layout_of(const TensorHandle& tensor);

}  // namespace gradkern
