// Batch normalisation on the CPU (backend.h).
#pragma once

#include <cstddef>

#include "backend.h"
#include "batch_norm_call.h"

namespace gradkern::cpu {

size_t batch_norm_workspace(const BatchNormCall& call);
void batch_norm(const Launch& launch, const BatchNormCall& call);

}  // namespace gradkern::cpu
