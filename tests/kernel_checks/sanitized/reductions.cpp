#include "reductions.h"

#include "elements.h"
#include "expect.h"

namespace gradkern::checks {

void expect_total(const TotalMemory& total, double want, double relative) {
  expect_close(total.value[0], want, relative, "the total norm", 0);
  expect_close(read_component(total.total.dtype, total.rounded.data(), 0),
               rounded_to(total.total.dtype, total.value[0]), 0, "the rounded total norm", 0);
}

}  // namespace gradkern::checks
