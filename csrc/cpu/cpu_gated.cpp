#include "cpu/cpu_gated.h"

#include <algorithm>

#include "cpu/gated_kernels.h"
#include "cpu/parallel.h"

namespace gradkern::cpu {

void gated(const Launch& launch, const GatedCall& call) {
  const auto run = kernels().gated[static_cast<int>(call.dtype)].run[call.activation]
                                                                    [static_cast<int>(call.pass)];
  const int64_t size = element_size(call.dtype), numel = call.rows * call.columns;
  // A part begins and ends in its row at a multiple of this many elements, as an activation's.
  constexpr int64_t kGrain = 64;
  const auto rounded = [&](int64_t element) {
    return element == numel ? element : element - element % call.columns % kGrain;
  };
  for_each_part(*launch.executor, numel, [&](int64_t begin, int64_t end) {
    for (int64_t i = rounded(begin); i < rounded(end);) {
      const int64_t row = i / call.columns, column = i % call.columns;
      const int64_t n = std::min(call.columns - column, rounded(end) - i);
      const void* in[3] = {};
      void* out[2] = {};
      for (int k = 0; k < inputs_of(call.pass); k++) {
        in[k] = static_cast<const char*>(call.in[k]) + (row * call.in_stride[k] + column) * size;
      }
      for (int k = 0; k < outputs_of(call.pass); k++) {
        out[k] = static_cast<char*>(call.out[k]) + (row * call.out_stride[k] + column) * size;
      }
      run(in, out, n);
      i += n;
    }
  });
}

}  // namespace gradkern::cpu
