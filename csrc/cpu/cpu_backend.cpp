#include "cpu/cpu_backend.h"

#include <cmath>
#include <limits>
#include <vector>

#include "cpu/cpu_activations.h"
#include "cpu/cpu_batch_norm.h"
#include "cpu/cpu_channelwise.h"
#include "cpu/cpu_gated.h"
#include "cpu/cpu_rrelu.h"
#include "cpu/cpu_softmax.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/round_scalar.h"
#include "cpu/work_plan.h"
#include "formulas/clip_factor.h"
#include "formulas/norms.h"
#include "formulas/statistics.h"

namespace gradkern::cpu {
namespace {

void* element(const TensorSpan& span, int64_t index) {
  return static_cast<char*>(span.data) + index * element_size(span.dtype);
}

// Reduces every chunk with `reduce`, merges each segment's chunks in order and hands the result to
// `finish(segment, chunk, partial)`.
template <class Formula, class Finish>
void reduce_segments(const Launch& launch, TensorSpans tensors, Reduction reduction, double order,
                     Finish finish) {
  using Partial = formulas::Partial<Formula::kFields>;
  const auto& functions = kernels().reduce[static_cast<int>(reduction)];
  const WorkPlan plan(tensors);
  std::vector<Partial> partials(plan.chunks());
  for_each_chunk(*launch.executor, plan, [&](const Chunk& chunk) {
    const TensorSpan& span = tensors[chunk.tensor];
    functions[static_cast<int>(span.dtype)](element(span, chunk.begin), chunk.size, order,
                                            partials[chunk.global_chunk].value);
  });
  for (int64_t t = 0; t < tensors.size; t++) {
    const int64_t per_segment = plan.chunks_per_segment(t);
    for (int64_t s = 0; s < tensors[t].segments(); s++) {
      Partial* first = &partials[plan.first_chunk(t) + s * per_segment];
      for (int64_t c = 1; c < per_segment; c++) Formula::merge(first[0], first[c], order);
      finish(t, plan.first_segment(t) + s, first[0]);
    }
  }
}

// Calls visit with the formula and the kernel of a norm's order.
template <class Visit>
void for_order(double order, Visit visit) {
  if (order == 2) {
    visit(formulas::SumOfSquares(), Reduction::kSumOfSquares);
  } else if (order == 1) {
    visit(formulas::SumOfMagnitudes(), Reduction::kSumOfMagnitudes);
  } else if (order == 0) {
    visit(formulas::NonzeroCount(), Reduction::kNonzeroCount);
  } else if (order == std::numeric_limits<double>::infinity()) {
    visit(formulas::LargestMagnitude(), Reduction::kLargestMagnitude);
  } else if (order == -std::numeric_limits<double>::infinity()) {
    visit(formulas::SmallestMagnitude(), Reduction::kSmallestMagnitude);
  } else {
    visit(formulas::ScaledPowers(), Reduction::kScaledPowers);
  }
}

void segment_norms(const Launch& launch, TensorSpans tensors, double order, double* norms) {
  for_order(order, [&](auto formula, Reduction reduction) {
    using Formula = decltype(formula);
    reduce_segments<Formula>(launch, tensors, reduction, order,
                             [&](int64_t, int64_t segment, const auto& partial) {
                               norms[segment] = Formula::norm(partial, order);
                             });
  });
}

void write_total(const double* norms, int64_t count, double order, const TotalNorm& total) {
  for_order(order, [&](auto formula, Reduction) {
    using Formula = decltype(formula);
    const auto partial =
        formulas::norms_of_norms<Formula>([&](int64_t i) { return norms[i]; }, 0, 1, count, order);
    *total.value = Formula::norm(partial, order);
  });
  if (total.rounded != nullptr) round_scalar(*total.value, total.rounded, total.dtype);
}

int64_t count_segments(TensorSpans tensors) {
  int64_t count = 0;
  for (const TensorSpan& span : tensors) count += span.segments();
  return count;
}

void norms(const Launch& launch, TensorSpans tensors, double order, double* norms,
           const TotalNorm* total) {
  segment_norms(launch, tensors, order, norms);
  if (total != nullptr) write_total(norms, count_segments(tensors), order, *total);
}

void statistics(const Launch& launch, TensorSpans tensors, double* statistics, double order,
                double* norms, const TotalNorm* total) {
  using Formula = formulas::Statistics;
  reduce_segments<Formula>(launch, tensors, Reduction::kStatistics, 0,
                           [&](int64_t tensor, int64_t segment, const auto& partial) {
                             double* row = statistics + tensor * kStatisticCount;
                             const double numel = static_cast<double>(tensors[tensor].numel);
                             row[kCount] = numel;
                             for (int field = 0; field < Formula::kFields; field++) {
                               row[kCount + 1 + field] = partial.value[field];
                             }
                             if (norms != nullptr)
                               norms[segment] = Formula::norm(partial, numel, order);
                           });
  if (total != nullptr) write_total(norms, tensors.size, order, *total);
}

double clip_factor(const Clip& clip, int64_t segment) {
  switch (clip.rule) {
    case ClipRule::kTotalNorm:
      return formulas::total_norm_factor(clip.norm[0], clip.max_norm);
    case ClipRule::kEachNorm:
      return formulas::each_norm_factor(clip.norm[segment], clip.max_norm);
    case ClipRule::kWeightNorm:
      return formulas::weight_norm_factor(clip.norm[segment], clip.weight_norm[segment],
                                          clip.max_norm, clip.eps);
  }
  return 1;
}

void clip(const Launch& launch, TensorSpans tensors, const Clip& clip, bool) {
  if (clip.rule == ClipRule::kTotalNorm && clip_factor(clip, 0) == 1) return;
  const WorkPlan plan(tensors);
  for_each_chunk(*launch.executor, plan, [&](const Chunk& chunk) {
    const double factor = clip_factor(clip, chunk.global_segment);
    if (factor == 1) return;
    const TensorSpan& span = tensors[chunk.tensor];
    kernels().scale[static_cast<int>(span.dtype)](element(span, chunk.begin), chunk.size, factor);
  });
}

void clamp(const Launch& launch, TensorSpans tensors, double bound) {
  const WorkPlan plan(tensors);
  for_each_chunk(*launch.executor, plan, [&](const Chunk& chunk) {
    const TensorSpan& span = tensors[chunk.tensor];
    kernels().clamp[static_cast<int>(span.dtype)](element(span, chunk.begin), chunk.size, bound);
  });
}

const char* unavailable() { return nullptr; }
size_t workspace(TensorSpans) { return 0; }

}  // namespace

const Backend& backend() {
  static const Backend table{kBackendVersion,
                             "cpu",
                             unavailable,
                             workspace,
                             norms,
                             statistics,
                             clip,
                             clamp,
                             activation,
                             activation_workspace,
                             activation_statistics,
                             softmax,
                             batch_norm_workspace,
                             batch_norm,
                             gated,
                             channelwise_workspace,
                             channelwise,
                             rrelu};
  return table;
}

}  // namespace gradkern::cpu
