// The CPU's entry of backend.h for gated activations.
#pragma once

#include "gated_call.h"

namespace gradkern::cpu {

void gated(const Launch& launch, const GatedCall& call);

}  // namespace gradkern::cpu
