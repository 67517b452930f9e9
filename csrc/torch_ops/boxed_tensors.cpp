#include "torch_ops/boxed_tensors.h"

#include <dlfcn.h>

#include <stdexcept>
#include <string>

namespace gradkern {

void check(AOTITorchError code) {
  if (code == AOTI_TORCH_SUCCESS) return;
  // torch >= 2.13 keeps the message of the exception behind a failed call; before, it only logs it.
  std::string message = "gradkern: a call into libtorch failed";
  if (void* library = dlopen("libtorch_cpu.so", RTLD_NOLOAD | RTLD_LAZY)) {
    using What = const char* (*)();
    const auto what =
        reinterpret_cast<What>(dlsym(library, "torch_exception_get_what_without_backtrace"));
    if (what != nullptr && what() != nullptr) message += std::string(": ") + what();
  }
  throw std::runtime_error(message);
}

}  // namespace gradkern
