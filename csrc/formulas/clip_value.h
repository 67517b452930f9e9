// Clipping by value: first from below, then from above, as native does; a NaN element stays NaN.
#pragma once

#include "formulas/scalar.h"

namespace gradkern::formulas {

template <class Value>
GRADKERN_FORMULA Value clip_to_bound(Value x, Value bound) {
  const Value raised = select(x < -bound, -bound, x);
  return select(raised > bound, bound, raised);
}

}  // namespace gradkern::formulas
