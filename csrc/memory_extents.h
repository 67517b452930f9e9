// Whether tensors that are to be changed in place share memory.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace gradkern {

// From a tensor's first byte to behind its last.
struct Extent {
  const char* begin;
  const char* end;
};

inline bool share_memory(const std::vector<Extent>& extents) {
  // Gradients mostly lie in memory in the order of their list, or in the opposite one.
  const auto ascends = [](const Extent& a, const Extent& b) { return a.end <= b.begin; };
  const auto overlaps_next = [](const std::vector<Extent>& list, auto separate) {
    for (size_t i = 1; i < list.size(); i++) {
      if (!separate(list[i - 1], list[i])) return true;
    }
    return false;
  };
  if (!overlaps_next(extents, ascends)) return false;
  if (!overlaps_next(extents, [&](const Extent& a, const Extent& b) { return ascends(b, a); })) {
    return false;
  }
  std::vector<Extent> sorted;
  for (const Extent& extent : extents) {
    if (extent.begin != extent.end) sorted.push_back(extent);
  }
  std::sort(sorted.begin(), sorted.end(),
            [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
  return overlaps_next(sorted, ascends);
}

}  // namespace gradkern
