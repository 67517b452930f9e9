// Tensors for the cases: in memory of their own, of sizes that reach every loop of a kernel.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "backend.h"
#include "case.h"
#include "device_memory.h"

namespace gradkern::checks {

class Tensor {
 public:
  // Normal values, some of them 0. An unaligned one begins one element behind a 16-byte boundary.
  Tensor(DType dtype, int64_t numel, int64_t segment, bool aligned, Random& random);

  const TensorSpan& span() const { return span_; }
  int64_t components() const;
  std::vector<double> elements() const;  // of a complex tensor the moduli
  std::vector<double> component_values() const;
  void set(int64_t component, double value);

  // Whether the bytes before the first element are as they were.
  bool padding_is_intact() const;

 private:
  int64_t offset_;  // bytes before the first element
  DeviceMemory memory_;
  TensorSpan span_;
};

class TensorList {
 public:
  void add(DType dtype, int64_t numel, int64_t segment, bool aligned, Random& random);

  TensorSpans spans() const { return {spans_.data(), static_cast<int64_t>(spans_.size())}; }
  std::deque<Tensor>& tensors() { return tensors_; }
  const std::deque<Tensor>& tensors() const { return tensors_; }
  int64_t segments() const;

  // The elements of each segment.
  std::vector<std::vector<double>> segment_values() const;

 private:
  std::deque<Tensor> tensors_;
  std::vector<TensorSpan> spans_;
};

// Several small chunks, a part of one, one element, none; then a tensor that fills the loop of
// several vectors in flight and leaves vectors and elements over. Aligned and not.
TensorList whole_tensors(DType dtype, Random& random);

// Tensors of several units each: short ones, and some that fill the same loop.
TensorList tensors_by_unit(DType dtype, Random& random);

}  // namespace gradkern::checks
