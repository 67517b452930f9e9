// The table's entries for activations: how many blocks, and which storage type's launcher.

#include <algorithm>

#include "cuda/activation.cuh"
#include "cuda/activation_launchers.h"
#include "cuda/activation_statistics.cuh"
#include "cuda/launch_plan.h"
#include "cuda/launchers.h"
#include "cuda/storage_types.cuh"

namespace gradkern::cuda {
namespace {

ActivationParameters parameters_of_call(const ActivationCall& call, int64_t chunk) {
  ActivationParameters p{};
  std::copy_n(call.in, 2, p.in);
  std::copy_n(call.out, 2, p.out);
  std::copy_n(call.parameters, 2, p.parameters);
  p.numel = call.numel;
  p.chunk = chunk;
  return p;
}

}  // namespace

void launch_activation(const Launch& launch, const ActivationCall& call) {
  set_device(launch.device);
  const ActivationParameters p = parameters_of_call(call, elementwise_chunk(call.dtype));
  for_real_storage(call.dtype, [&](auto storage) {
    using Launchers = ActivationLaunchers<typename decltype(storage)::type>;
    Launchers::run(call.activation, call.pass, p, parts_of(call.numel, p.chunk), launch.stream);
  });
}

size_t activation_workspace_bytes(int64_t numel) {
  const int64_t blocks = parts_of(numel, launch_limits().chunk);
  return blocks * formulas::ActivationStatistics::kFields * sizeof(double) + sizeof(unsigned);
}

void launch_activation_statistics(const Launch& launch, const ActivationCall& call,
                                  const Channels& channels, double* statistics) {
  set_device(launch.device);
  fill_zero(statistics, (kActivationStatisticCount + channels.count) * sizeof(double),
            launch.stream);
  if (call.numel == 0) return;
  ActivationStatisticsParameters p{};
  p.activation = parameters_of_call(call, launch_limits().chunk);
  p.channels = channels;
  const int64_t blocks = parts_of(call.numel, p.activation.chunk);
  p.partials = static_cast<double*>(launch.workspace);
  p.counter =
      reinterpret_cast<unsigned*>(p.partials + blocks * formulas::ActivationStatistics::kFields);
  p.statistics = statistics;
  fill_zero(p.counter, sizeof(unsigned), launch.stream);
  for_real_storage(call.dtype, [&](auto storage) {
    using Launchers = ActivationLaunchers<typename decltype(storage)::type>;
    Launchers::run_statistics(call.activation, p, blocks, launch.stream);
  });
}

}  // namespace gradkern::cuda
