#include "torch_ops/layout.h"

#include <algorithm>
#include <vector>

namespace gradkern {
namespace {

// Whether two indices of a tensor are at one place, by visiting them all: for the strides of a
// hand-made view, which no rule decides.
bool places_repeat(const TensorHandle& tensor, int64_t extent) {
  const int64_t dim = tensor.dim();
  const int64_t *sizes = tensor.sizes(), *strides = tensor.strides();
  std::vector<bool> taken(extent);
  std::vector<int64_t> index(dim);
  for (int64_t place = 0;;) {
    if (taken[place]) return true;
    taken[place] = true;
    int64_t d = dim - 1;
    for (; d >= 0; d--) {
      place += strides[d];
      if (++index[d] < sizes[d]) break;
      place -= strides[d] * sizes[d];
      index[d] = 0;
    }
    if (d < 0) return false;
  }
}

}  // namespace

Layout layout_of(const TensorHandle& tensor) {
  const int64_t dim = tensor.dim();
  const int64_t *sizes = tensor.sizes(), *strides = tensor.strides();
  Layout layout{true, true, false, 1};
  std::vector<int64_t> order;
  for (int64_t d = 0; d < dim; d++) {
    if (sizes[d] == 0) return {true, true, false, 0};
    if (sizes[d] == 1) continue;
    layout.overlaps |= strides[d] == 0;
    layout.extent += (sizes[d] - 1) * strides[d];
    order.push_back(d);
  }
  std::sort(order.begin(), order.end(),
            [&](int64_t a, int64_t b) { return strides[a] < strides[b]; });
  int64_t expected = 1, reached = 0;
  bool nested = true;  // every stride steps over all that the smaller ones reach
  for (int64_t d : order) {
    layout.dense &= strides[d] == expected;
    expected *= sizes[d];
    nested &= strides[d] > reached;
    reached += (sizes[d] - 1) * strides[d];
  }
  if (!nested && !layout.overlaps) layout.overlaps = places_repeat(tensor, layout.extent);
  layout.unit_is_outer =
      layout.dense && (order.empty() || dim == 0 || sizes[0] == 1 || order.back() == 0);
  return layout;
}

}  // namespace gradkern
