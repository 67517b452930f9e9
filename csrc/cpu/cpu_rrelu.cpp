#include "cpu/cpu_rrelu.h"

#include "cpu/parallel.h"
#include "cpu/rrelu_kernels.h"

namespace gradkern::cpu {

void rrelu(const Launch& launch, const RreluCall& call) {
  const auto run = kernels().rrelu[static_cast<int>(call.dtype)].run[static_cast<int>(call.pass)];
  const int64_t size = element_size(call.dtype);
  const auto seed = static_cast<uint64_t>(*call.seed);
  // A part begins and ends at a multiple of this many elements, as an activation's.
  constexpr int64_t kGrain = 64;
  const auto rounded = [&](int64_t element) {
    return element == call.numel ? element : element / kGrain * kGrain;
  };
  for_each_part(*launch.executor, call.numel, [&](int64_t begin, int64_t end) {
    const int64_t first = rounded(begin), n = rounded(end) - first;
    const void* in[2] = {};
    for (int k = 0; k < inputs_of(call.pass); k++) {
      in[k] = static_cast<const char*>(call.in[k]) + first * size;
    }
    run(in, static_cast<char*>(call.out) + first * size, first, n, call.lower, call.upper, seed);
  });
}

}  // namespace gradkern::cpu
