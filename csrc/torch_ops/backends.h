// Which backend serves which device, and how a call reaches it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend.h"
#include "torch_ops/boxed_tensors.h"

namespace gradkern {

struct Device {
  int32_t type;
  int32_t index;
  bool operator==(const Device&) const = default;
};
inline Device device_of(const TensorHandle& tensor) {
  return {tensor.device_type(), tensor.device_index()};
}

// A call on one device: the backend's table, the device's current stream and a workspace that lives
// as long as this object. Makes the device current while it lives.
class DeviceCall {
 public:
  DeviceCall(Device device, size_t workspace_bytes);
  ~DeviceCall();
  DeviceCall(const DeviceCall&) = delete;

  const Launch& launch() const { return launch_; }

 private:
  Launch launch_{};
  TensorHandle workspace_;
  void* device_guard_ = nullptr;
};

// Throws Delegate (dense_tensors.h) if no backend serves the device.
const Backend& backend_for(Device device);

}  // namespace gradkern
