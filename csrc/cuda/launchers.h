// What the kernels' files offer to the table of functions.
#pragma once

#include "backend.h"

namespace gradkern::cuda {

// Fields of the largest partial result (the statistics).
inline constexpr int kMaxFields = 7;

size_t workspace_bytes(TensorSpans tensors);

void launch_norms(const Launch& launch, TensorSpans tensors, double order, double* norms,
                  const TotalNorm* total);
void launch_statistics(const Launch& launch, TensorSpans tensors, double* statistics, double order,
                       double* norms, const TotalNorm* total);
void launch_clip(const Launch& launch, TensorSpans tensors, const Clip& clip, bool after_reduction);
void launch_clamp(const Launch& launch, TensorSpans tensors, double bound);

void launch_activation(const Launch& launch, const ActivationCall& call);
size_t activation_workspace_bytes(int64_t numel);
void launch_activation_statistics(const Launch& launch, const ActivationCall& call,
                                  const Channels& channels, double* statistics);

void launch_softmax(const Launch& launch, const SoftmaxCall& call);

size_t batch_norm_workspace_bytes(const BatchNormCall& call);
void launch_batch_norm(const Launch& launch, const BatchNormCall& call);

void launch_gated(const Launch& launch, const GatedCall& call);

size_t channelwise_workspace_bytes(const ChannelwiseCall& call);
void launch_channelwise(const Launch& launch, const ChannelwiseCall& call);

void launch_rrelu(const Launch& launch, const RreluCall& call);

}  // namespace gradkern::cuda
