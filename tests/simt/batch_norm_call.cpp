// Batch normalisation of the backend's table, for ctypes: with a workspace of exactly the size
// asked for, full of NaN.

#include "batch_norm_call.h"

#include <cstring>
#include <exception>
#include <string>
#include <vector>

extern "C" const gradkern::Backend* gradkern_backend();

// Null, or what was wrong.
extern "C" __attribute__((visibility("default"))) const char* simt_batch_norm(
    const gradkern::BatchNormCall* call) {
  static std::string error;
  try {
    const gradkern::Backend& backend = *gradkern_backend();
    const size_t bytes = backend.batch_norm_workspace(*call);
    std::vector<double> workspace((bytes + sizeof(double) - 1) / sizeof(double));
    if (bytes > 0) std::memset(workspace.data(), 0xff, bytes);
    backend.batch_norm({0, nullptr, nullptr, workspace.data()}, *call);
    return nullptr;
  } catch (const std::exception& exception) {
    error = exception.what();
    return error.c_str();
  }
}

extern "C" __attribute__((visibility("default"))) size_t simt_batch_norm_call_size() {
  return sizeof(gradkern::BatchNormCall);
}
