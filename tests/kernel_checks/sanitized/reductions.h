// Calls a reduction of the backend, with memory of exactly the sizes it may use.
#pragma once

#include <optional>

#include "backend.h"
#include "case.h"
#include "device_memory.h"
#include "tensors.h"

namespace gradkern::checks {

// The workspace of a call, which a clip may find again.
class Call {
 public:
  Call(const Setting& setting, TensorSpans tensors)
      : workspace_(setting.backend.workspace(tensors)),
        launch_{0, nullptr, nullptr, workspace_.data()} {}

  const Launch& launch() const { return launch_; }

 private:
  DeviceMemory workspace_;
  Launch launch_;
};

// Where a total norm goes, also rounded to `dtype`.
struct TotalMemory {
  explicit TotalMemory(DType dtype)
      : value(1), rounded(element_size(dtype)), total{value.data(), rounded.data(), dtype} {}
  DeviceArray<double> value;
  DeviceMemory rounded;
  TotalNorm total;
};

// Throws if a total or its rounded copy is not what it must be.
void expect_total(const TotalMemory& total, double want, double relative);

}  // namespace gradkern::checks
