// The CPU's entry of backend.h for softmax.
#pragma once

#include "softmax_call.h"

namespace gradkern::cpu {

void softmax(const Launch& launch, const SoftmaxCall& call);

}  // namespace gradkern::cpu
