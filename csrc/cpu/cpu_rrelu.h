// The CPU's entry of backend.h for RReLU with random slopes.
#pragma once

#include "rrelu_call.h"

namespace gradkern::cpu {

void rrelu(const Launch& launch, const RreluCall& call);

}  // namespace gradkern::cpu
