// The tensors of an elementwise call, all in one memory order.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "backend.h"
#include "torch_ops/backends.h"
#include "torch_ops/boxed_tensors.h"

namespace gradkern {

// The tensor that decides shape, dtype, device and memory order: as it lies if it is dense, else a
// dense copy in the memory order that torch gives a result of it (empty_like).
class ReferenceOperand {
 public:
  // Throws Delegate for dtypes and devices that native has to handle. `argument` names the tensor
  // in messages; it must live as long as this object.
  ReferenceOperand(const TensorHandle& tensor, const char* argument);

  const void* data() const { return dense_->data(); }
  void* writable_data() const { return dense_->data(); }
  int64_t numel() const { return numel_; }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  int64_t dim() const { return dense_->dim(); }
  const int64_t* sizes() const { return dense_->sizes(); }
  const int64_t* strides() const { return dense_->strides(); }
  const char* argument() const { return argument_; }
  const TensorHandle& original() const { return original_; }

  // Elements of dense memory belong to channels by the index of this dimension (negative: from the
  // end). Throws std::out_of_range, with the argument's name, if there is no such dimension.
  Channels channels(int64_t dimension, const char* argument = "channel_dim") const;

  // An uninitialised tensor like this one.
  TensorHandle result() const;

  // For a tensor that is written in place: throws std::runtime_error if it overlaps itself.
  void require_writable() const;
  // Copies the result of an in-place call back where the tensor lies.
  void commit() const;

 private:
  const TensorHandle& original_;
  const char* argument_;
  TensorHandle copy_;
  const TensorHandle* dense_;
  int64_t numel_;
  DType dtype_;
  Device device_;
};

// Another tensor, of the reference's shape, dtype and device, in its memory order.
class Operand {
 public:
  enum class Access { kRead, kWrite };

  // Throws std::invalid_argument if it is not like the reference; std::runtime_error if it is to be
  // written and shares memory with the reference in part, or overlaps itself.
  Operand(const TensorHandle& tensor, const char* argument, const ReferenceOperand& reference,
          Access access);

  void* data() const { return staged_.get() != nullptr ? staged_.data() : original_.data(); }
  // Copies what was written back where the tensor lies.
  void commit() const;

 private:
  const TensorHandle& original_;
  TensorHandle staged_;
};

}  // namespace gradkern
