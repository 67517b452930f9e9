// Memory as kernels get it: of exactly the size asked for, so that AddressSanitizer sees the first
// byte beyond it, and full of NaN.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

namespace gradkern::checks {

class DeviceMemory {
 public:
  explicit DeviceMemory(size_t bytes) : bytes_(static_cast<char*>(std::malloc(bytes))) {
    if (bytes_ == nullptr && bytes != 0) throw std::bad_alloc();
    std::memset(bytes_.get(), 0xff, bytes);
  }

  char* data() const { return bytes_.get(); }

 private:
  struct Free {
    void operator()(char* memory) const { std::free(memory); }
  };
  std::unique_ptr<char[], Free> bytes_;
};

// `count` objects that a kernel writes.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t count) : memory_(count * sizeof(T)) {}

  T* data() const { return reinterpret_cast<T*>(memory_.data()); }
  T& operator[](size_t i) const { return data()[i]; }

 private:
  DeviceMemory memory_;
};

}  // namespace gradkern::checks
