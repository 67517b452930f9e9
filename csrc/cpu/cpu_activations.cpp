#include "cpu/cpu_activations.h"

#include <algorithm>
#include <mutex>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/work_plan.h"
#include "formulas/activation_statistics.h"

namespace gradkern::cpu {
namespace {

// From here on outputs are written past the caches: a cache line is then not read before it is
// overwritten (4 of 12 bytes an element, in float32), and what is in the caches stays there. Half
// of this machine class's last-level cache: a smaller output is read from it by the next layer.
constexpr int64_t kStreamedBytes = int64_t(16) << 20;

// What is computed before it is streamed: two inputs and two outputs of it fit the first-level
// cache.
constexpr int64_t kBlockBytes = 4096;

const void* advanced(const void* data, int64_t bytes) {
  return static_cast<const char*>(data) + bytes;
}
void* advanced(void* data, int64_t bytes) { return static_cast<char*>(data) + bytes; }

bool is_streamed(const ActivationCall& call) {
  if (call.numel * element_size(call.dtype) < kStreamedBytes) return false;
  for (int k = 0; k < outputs_of(call.pass); k++) {
    if (reinterpret_cast<uintptr_t>(call.out[k]) % 64 != 0) return false;
    for (int j = 0; j < inputs_of(call.pass); j++) {
      if (call.out[k] == call.in[j]) return false;
    }
  }
  return true;
}

// Computes elements [begin, end) straight into the outputs.
void compute(Kernels::Activate run, const ActivationCall& call, int64_t begin, int64_t end) {
  const int64_t size = element_size(call.dtype);
  const void* in[2] = {};
  void* out[2] = {};
  for (int k = 0; k < inputs_of(call.pass); k++) in[k] = advanced(call.in[k], begin * size);
  for (int k = 0; k < outputs_of(call.pass); k++) out[k] = advanced(call.out[k], begin * size);
  run(in, out, end - begin, call.parameters);
}

// The same by way of a block in the first-level cache.
void compute_and_stream(Kernels::Activate run, const ActivationCall& call, int64_t begin,
                        int64_t end) {
  alignas(64) char blocks[2][kBlockBytes];
  const int64_t size = element_size(call.dtype);
  const auto stream = kernels().stream;
  for (int64_t i = begin; i < end;) {
    // Up to the next multiple of a block, so that every block begins at a whole cache line.
    const int64_t next = std::min(end, (i * size / kBlockBytes + 1) * kBlockBytes / size);
    const void* in[2] = {};
    void* out[2] = {blocks[0], blocks[1]};
    for (int k = 0; k < inputs_of(call.pass); k++) in[k] = advanced(call.in[k], i * size);
    run(in, out, next - i, call.parameters);
    for (int k = 0; k < outputs_of(call.pass); k++) {
      stream(advanced(call.out[k], i * size), blocks[k], (next - i) * size);
    }
    i = next;
  }
}

}  // namespace

void activation(const Launch& launch, const ActivationCall& call) {
  const auto run =
      kernels()
          .activate[call.activation][static_cast<int>(call.pass)][static_cast<int>(call.dtype)];
  const bool streamed = is_streamed(call);
  // A part begins and ends at a multiple of this many elements: a cache line of the narrowest type.
  constexpr int64_t kGrain = 64;
  const auto rounded = [&](int64_t element) {
    return element == call.numel ? element : element / kGrain * kGrain;
  };
  for_each_part(*launch.executor, call.numel, [&](int64_t begin, int64_t end) {
    begin = rounded(begin);
    end = rounded(end);
    if (streamed) {
      compute_and_stream(run, call, begin, end);
    } else {
      compute(run, call, begin, end);
    }
  });
}

size_t activation_workspace(int64_t) { return 0; }

void activation_statistics(const Launch& launch, const ActivationCall& call,
                           const Channels& channels, double* statistics) {
  using Formula = formulas::ActivationStatistics;
  using Partial = formulas::Partial<Formula::kFields>;
  const auto run = kernels().activate_and_measure[call.activation][static_cast<int>(call.dtype)];
  const int64_t size = element_size(call.dtype);
  const TensorSpan span{call.out[0], call.numel, call.numel, call.dtype};
  const WorkPlan plan({&span, 1});
  std::vector<Partial> partials(plan.chunks());
  double* active = statistics + kActivationStatisticCount;
  std::fill_n(active, channels.count, 0.0);
  std::mutex merging;
  for_each_part(*launch.executor, plan.cost(), [&](int64_t begin, int64_t end) {
    // Whole numbers: the order in which parts add theirs does not show.
    std::vector<double> counts(channels.count);
    plan.each_chunk(begin, end, [&](const Chunk& chunk) {
      run(advanced(call.in[0], chunk.begin * size), advanced(call.out[0], chunk.begin * size),
          chunk.begin, chunk.size, call.parameters, channels, partials[chunk.global_chunk].value,
          counts.data());
    });
    if (channels.count == 0) return;
    const std::lock_guard<std::mutex> lock(merging);
    for (int64_t c = 0; c < channels.count; c++) active[c] += counts[c];
  });
  for (size_t c = 1; c < partials.size(); c++) Formula::merge(partials[0], partials[c], 0);
  statistics[kActivationCount] = static_cast<double>(call.numel);
  std::copy_n(partials[0].value, Formula::kFields, statistics + kActivationSum);
}

}  // namespace gradkern::cpu
