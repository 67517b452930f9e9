// The part of DLPack 1.3 through which a C extension sees another library's tensors: a table of C
// functions behind the capsule `__dlpack_c_exchange_api__` of the tensors' type.
//
// https://dmlc.github.io/dlpack/latest/python_spec.html. The layout is the protocol's ABI; within a
// major version it only grows.
#pragma once

#include <cstdint>

namespace gradkern::dlpack {

inline constexpr uint32_t kMajorVersion = 1;
inline constexpr const char* kCapsuleName = "dlpack_exchange_api";

inline constexpr int32_t kCpu = 1;                 // DLDeviceType
inline constexpr uint8_t kFloat = 2, kBFloat = 4;  // DLDataTypeCode

struct Device {
  int32_t type, index;
};

struct DataType {
  uint8_t code, bits;
  uint16_t lanes;
};

struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;  // in elements; null: row-major and dense
  uint64_t byte_offset;
};

struct ExchangeApi {
  uint32_t major, minor;
  ExchangeApi* previous;  // for an older major version
  void (*allocate)();
  void (*managed_from_object)();
  void (*object_from_managed)();
  // Fills in what stays the object's own; 0, or -1 with a Python exception set. May be null.
  int (*tensor_from_object)(void* object, Tensor* tensor);
  void (*current_stream)();
};

}  // namespace gradkern::dlpack
