#include "torch_ops/fresh_tensors.h"

#include <torch/csrc/stable/c/shim.h>
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace gradkern {
namespace {

// From here on glibc gives every allocation a mapping of its own, which the system fills with
// zeros page by page while we write: 8 of the 19 ms in which 64 MB are normalised. In huge pages
// that is quicker by far. Linux gives them to who asks, in its usual setting; NumPy asks, too, and
// torch with THP_MEM_ALLOC_ENABLE=1. Smaller results lie in a heap that keeps its pages.
constexpr int64_t kOwnMapping = int64_t(1) << 25;

TensorHandle on_huge_pages(TensorHandle tensor, int32_t device_type) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (device_type != aoti_torch_device_type_cpu()) return tensor;
  int64_t bytes;
  check(aoti_torch_get_storage_size(tensor.get(), &bytes));
  if (bytes < kOwnMapping) return tensor;
  static const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = reinterpret_cast<uintptr_t>(tensor.data());
  const uintptr_t first = (begin + page - 1) / page * page, behind = (begin + bytes) / page * page;
  // Advice: where the system does not follow it, nothing is lost.
  (void)madvise(reinterpret_cast<void*>(first), behind - first, MADV_HUGEPAGE);
#endif
  return tensor;
}

}  // namespace

TensorHandle empty_strided(Device device, int32_t dtype, int64_t dim, const int64_t* sizes,
                           const int64_t* strides) {
  AtenTensorHandle tensor;
  check(aoti_torch_empty_strided(dim, sizes, strides, dtype, device.type, device.index, &tensor));
  return on_huge_pages(TensorHandle(tensor), device.type);
}

TensorHandle empty(Device device, int32_t dtype, int64_t dim, const int64_t* sizes) {
  std::vector<int64_t> strides(dim);
  int64_t stride = 1;
  for (int64_t d = dim; d-- > 0; stride *= std::max<int64_t>(sizes[d], 1)) strides[d] = stride;
  return empty_strided(device, dtype, dim, sizes, strides.data());
}

TensorHandle empty_like(const TensorHandle& tensor) {
  AtenTensorHandle shared;
  check(aoti_torch_new_tensor_handle(tensor.get(), &shared));
  std::array<StableIValue, 6> stack;
  stack.fill(torch::stable::detail::from(std::nullopt));
  stack[0] = torch::stable::detail::from(shared);
  check(torch_call_dispatcher("aten::empty_like", "", stack.data(), TORCH_ABI_VERSION));
  return on_huge_pages(TensorHandle(torch::stable::detail::to<AtenTensorHandle>(stack[0])),
                       tensor.device_type());
}

}  // namespace gradkern
