#include "torch_ops/backends.h"

#include <dlfcn.h>
#include <torch/csrc/stable/c/shim.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <stdexcept>
#include <string>

#include "cpu/cpu_backend.h"
#include "cpu/kernels.h"
#include "torch_ops/dense_tensors.h"
#include "torch_ops/fresh_tensors.h"
#include "torch_ops/registry.h"

namespace gradkern {
namespace {

std::map<std::string, const Backend*>& backends() {
  static std::map<std::string, const Backend*> map = {{"cpu", &cpu::backend()}};
  return map;
}

const Backend* g_cpu_backend = nullptr;   // set by serve_cpu_with
const Backend* g_cuda_backend = nullptr;  // set by load

// The current stream as a cudaStream_t. torch >= 2.13 gives it for every accelerator; before, only
// libtorch_cuda exports it. Neither may be linked: the one build serves every torch, with and
// without CUDA. RTLD_DEFAULT does not find them, because Python loads libtorch without RTLD_GLOBAL.
void* loaded_symbol(const char* library, const char* symbol) {
  void* handle = dlopen(library, RTLD_NOLOAD | RTLD_LAZY);
  return handle == nullptr ? nullptr : dlsym(handle, symbol);
}

void* current_stream(int32_t device_index) {
  using NativeHandle = AOTITorchError (*)(StreamHandle, void**);
  using CudaStream = AOTITorchError (*)(int32_t, void**);
  static const auto native_handle = reinterpret_cast<NativeHandle>(
      loaded_symbol("libtorch_cpu.so", "torch_stream_native_handle"));
  static const auto cuda_stream = reinterpret_cast<CudaStream>(
      loaded_symbol("libtorch_cuda.so", "aoti_torch_get_current_cuda_stream"));
  void* stream = nullptr;
  if (native_handle != nullptr) {
    StreamHandle handle;
    check(aoti_torch_get_current_stream(device_index, &handle));
    const AOTITorchError code = native_handle(handle, &stream);
    aoti_torch_delete_stream(handle);
    check(code);
  } else if (cuda_stream != nullptr) {
    check(cuda_stream(device_index, &stream));
  } else {
    throw std::runtime_error("gradkern: this torch has no CUDA stream to run on");
  }
  return stream;
}

int torch_threads() {
  uint32_t threads;
  check(torch_get_num_threads(&threads));
  return static_cast<int>(threads);
}

void run_on_torch_threads(int64_t tasks, void (*task)(void*, int64_t), void* context) {
  struct Call {
    void (*task)(void*, int64_t);
    void* context;
  } call{task, context};
  const auto run = [](int64_t begin, int64_t end, void* opaque) {
    const Call& c = *static_cast<Call*>(opaque);
    for (int64_t i = begin; i < end; i++) c.task(c.context, i);
  };
  // The return code is the only trace of an exception in a worker.
  check(torch_parallel_for(0, tasks, 1, run, &call));
}

}  // namespace

DeviceCall::DeviceCall(Device device, size_t workspace_bytes) {
  launch_.device = device.index;
  if (device.type == aoti_torch_device_type_cuda()) {
    DeviceGuardHandle guard;
    check(aoti_torch_create_device_guard(device.index, &guard));
    device_guard_ = guard;
    launch_.stream = current_stream(device.index);
  } else {
    launch_.executor = &registry::executor();
  }
  if (workspace_bytes > 0) {
    workspace_ = empty(device, aoti_torch_dtype_uint8(), {static_cast<int64_t>(workspace_bytes)});
    launch_.workspace = workspace_.data();
  }
}

DeviceCall::~DeviceCall() {
  if (device_guard_ != nullptr) {
    aoti_torch_delete_device_guard(static_cast<DeviceGuardHandle>(device_guard_));
  }
}

const Backend& backend_for(Device device) {
  if (device.type == aoti_torch_device_type_cpu()) {
    return registry::cpu_backend();
  }
  if (device.type == aoti_torch_device_type_cuda() && g_cuda_backend != nullptr) {
    return *g_cuda_backend;
  }
  throw Delegate("no gradkern kernels are loaded for this device");
}

namespace registry {

const Executor& executor() {
  static const Executor table{torch_threads, run_on_torch_threads};
  return table;
}

const Backend& cpu_backend() { return g_cpu_backend != nullptr ? *g_cpu_backend : cpu::backend(); }

const char* cpu_isa() { return cpu::kernels().isa; }

const char* const* runnable_isas() { return cpu::runnable_isas(); }

const char* load(const char* name, const char* path) {
  static std::string problem;
  // Never unloaded: its table is in use from now on.
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    problem = dlerror();
    return problem.c_str();
  }
  const auto table = reinterpret_cast<const Backend* (*)()>(dlsym(library, "gradkern_backend"));
  if (table == nullptr) {
    problem = std::string(path) + " exports no gradkern_backend";
    return problem.c_str();
  }
  const Backend* backend = table();
  if (backend->version != kBackendVersion) {
    problem = std::string(path) + " was built for another version of gradkern";
    return problem.c_str();
  }
  if (const char* reason = backend->unavailable(); reason != nullptr) return reason;
  backends()[name] = backend;
  if (std::string(name) == "cuda") g_cuda_backend = backend;
  return "";
}

void serve_cpu_with(const char* name) {
  const auto found = backends().find(name);
  if (found == backends().end()) {
    throw std::invalid_argument("name is '" + std::string(name) +
                                "'; it must be a backend that was loaded");
  }
  g_cpu_backend = found->second;
}

uint64_t read_all(const void* data, size_t bytes) {
  static constexpr size_t kBlock = size_t(1) << 20;
  struct Shared {
    const char* data;
    size_t bytes;
    std::atomic<size_t> next;
    std::atomic<uint64_t> result;
  } shared{static_cast<const char*>(data), bytes, {0}, {0}};
  const auto work = [](void* context, int64_t) {
    Shared& s = *static_cast<Shared*>(context);
    uint64_t result = 0;
    for (size_t begin; (begin = s.next.fetch_add(kBlock)) < s.bytes;) {
      result ^= cpu::kernels().read_all(s.data + begin, std::min(kBlock, s.bytes - begin));
    }
    s.result ^= result;
  };
  run_on_torch_threads(torch_threads(), work, &shared);
  return shared.result;
}

}  // namespace registry
}  // namespace gradkern
