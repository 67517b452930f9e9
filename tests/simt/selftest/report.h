// How the sample kernels' C functions report what a launch threw.
#pragma once

#include "simt.h"

namespace selftest {

void remember(const simt::Error& error);

// Runs `body`; returns 0, or 1 if it threw an Error, which selftest_error() then tells.
template <class Body>
int report(const Body& body) {
  try {
    body();
    return 0;
  } catch (const simt::Error& error) {
    remember(error);
    return 1;
  }
}

}  // namespace selftest
