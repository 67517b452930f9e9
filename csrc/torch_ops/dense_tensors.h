// A list of tensors as the spans of dense memory that backends work on.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "backend.h"
#include "memory_extents.h"
#include "torch_ops/backends.h"
#include "torch_ops/boxed_tensors.h"
#include "torch_ops/storage.h"

namespace gradkern {

// Thrown before anything was touched: the call is legal, but native PyTorch has to do it. Python
// knows it by its prefix (gradkern/ops.py).
struct Delegate : std::runtime_error {
  explicit Delegate(const std::string& why);
};

enum class Access { kRead, kWrite };
enum class ComplexAs { kPairs, kModulus };
enum class SegmentBy { kTensor, kUnit };

class DenseTensors {
 public:
  // Throws Delegate for tensors that native has to handle, std::runtime_error for those that nobody
  // can: integer elements, and, where they are to be written, tensors that overlap themselves.
  // `argument` names the list in messages.
  DenseTensors(const TensorList& tensors, const char* argument, Access access,
               ComplexAs complex_as = ComplexAs::kPairs, SegmentBy segment_by = SegmentBy::kTensor);

  TensorSpans spans() const { return {spans_.data(), static_cast<int64_t>(spans_.size())}; }
  int64_t size() const { return static_cast<int64_t>(spans_.size()); }
  int64_t segments() const;
  Device device() const { return device_; }

  // The real dtype that native's type promotion gives a norm of these tensors.
  DType promoted() const { return promoted_; }

  bool has_empty() const;
  bool has_complex() const { return has_complex_; }

  // Calls run(spans, first_segment, all) so that every tensor's memory is changed in turn: once for
  // the whole list (all = true), or, where two tensors of the list share memory, tensor by tensor.
  // Copies results of staged tensors back.
  template <class Run>
  void change(Run run) const {
    if (!share_memory(extents_)) {
      run(spans(), int64_t(0), true);
      for (const Staged& staged : staged_) write_back(staged);
      return;
    }
    int64_t first_segment = 0;
    for (int64_t i = 0; i < size(); i++) {
      const Staged* staged = find_staged(i);
      if (staged != nullptr) refresh(*staged);
      run(TensorSpans{&spans_[i], 1}, first_segment, false);
      if (staged != nullptr) write_back(*staged);
      first_segment += spans_[i].segments();
    }
  }

 private:
  // A tensor with gaps in memory works through a dense copy.
  struct Staged {
    int64_t index;
    AtenTensorHandle original;
    TensorHandle copy;
  };

  void add(const TensorHandle& tensor, int64_t index, const char* argument, Access access,
           ComplexAs complex_as, SegmentBy segment_by);
  const Staged* find_staged(int64_t index) const;
  static void refresh(const Staged& staged);
  static void write_back(const Staged& staged);

  Device device_{};
  DType promoted_{};
  bool has_complex_ = false;
  std::vector<TensorSpan> spans_;
  std::vector<Staged> staged_;
  std::vector<Extent> extents_;  // of the originals, where they are to be written
};

}  // namespace gradkern
