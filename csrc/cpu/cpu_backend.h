// The CPU's table of functions (backend.h).
#pragma once

#include "backend.h"

namespace gradkern::cpu {

const Backend& backend();

}  // namespace gradkern::cpu
