// Tensors as the stable ABI hands them to an operator, with as little between as possible.
//
// torch::stable::Tensor holds its handle in a shared_ptr, and TORCH_BOX makes a std::vector of them
// from a Tensor[]; over two thousand gradients that costs a fifth of the whole call (476 us against
// 373). These types own the same handles and nothing else.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <cstdint>
#include <utility>
#include <vector>

namespace gradkern {

// Throws std::runtime_error, with libtorch's message where this torch has one, if a call failed.
void check(AOTITorchError code);

// Owns one tensor handle.
class TensorHandle {
 public:
  TensorHandle() = default;
  explicit TensorHandle(AtenTensorHandle handle) : handle_(handle) {}
  TensorHandle(TensorHandle&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  TensorHandle& operator=(TensorHandle&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~TensorHandle() {
    if (handle_ != nullptr) aoti_torch_delete_tensor_object(handle_);
  }

  AtenTensorHandle get() const { return handle_; }
  AtenTensorHandle release() { return std::exchange(handle_, nullptr); }

  void* data() const {
    void* data;
    check(aoti_torch_get_data_ptr(handle_, &data));
    return data;
  }
  int64_t numel() const {
    int64_t numel;
    check(aoti_torch_get_numel(handle_, &numel));
    return numel;
  }
  int64_t dim() const {
    int64_t dim;
    check(aoti_torch_get_dim(handle_, &dim));
    return dim;
  }
  const int64_t* sizes() const {
    int64_t* sizes;
    check(aoti_torch_get_sizes(handle_, &sizes));
    return sizes;
  }
  const int64_t* strides() const {
    int64_t* strides;
    check(aoti_torch_get_strides(handle_, &strides));
    return strides;
  }
  bool is_contiguous() const {
    bool contiguous;
    check(aoti_torch_is_contiguous(handle_, &contiguous));
    return contiguous;
  }
  int32_t dtype() const {
    int32_t dtype;
    check(aoti_torch_get_dtype(handle_, &dtype));
    return dtype;
  }
  int32_t device_type() const {
    int32_t type;
    check(aoti_torch_get_device_type(handle_, &type));
    return type;
  }
  int32_t device_index() const {
    int32_t index;
    check(aoti_torch_get_device_index(handle_, &index));
    return index;
  }

 private:
  AtenTensorHandle handle_ = nullptr;
};

using TensorList = std::vector<TensorHandle>;

}  // namespace gradkern
