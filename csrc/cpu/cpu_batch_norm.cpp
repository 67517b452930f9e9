#include "cpu/cpu_batch_norm.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "cpu/batch_norm_kernels.h"
#include "cpu/batch_norm_plan.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/read_scalar.h"
#include "cpu/round_scalar.h"
#include "formulas/activation_statistics.h"
#include "formulas/batch_norm.h"

namespace gradkern::cpu {
namespace {

using formulas::InputGradient;
using formulas::Moments;
using formulas::Normalisation;

// A group of which all that a pass reads is smaller stays in a core's second-level cache between
// the reduction and what follows from it. Of columns, whose rows are apart, less does.
constexpr int64_t kHeldBytes = int64_t(1) << 20;
constexpr int64_t kHeldBytesOfColumns = int64_t(1) << 18;

const void* advanced(const void* data, int64_t bytes) {
  return data == nullptr ? nullptr : static_cast<const char*>(data) + bytes;
}
void* advanced(void* data, int64_t bytes) {
  return data == nullptr ? nullptr : static_cast<char*>(data) + bytes;
}

// Every channel's constants, in the type of the arithmetic.
template <class S>
class ChannelConstants {
 public:
  explicit ChannelConstants(int64_t channels)
      : stride_(channels + kConstantsPadding), values_(stride_ * kBatchNormConstantCount) {}

  void set(int64_t channel, const Normalisation<S>& n) {
    at(kMeanHigh, channel) = n.mean_high;
    at(kMeanLow, channel) = n.mean_low;
    at(kInvstd, channel) = n.invstd;
    at(kWeight, channel) = n.weight;
    at(kBias, channel) = n.bias;
  }
  void set(int64_t channel, const InputGradient<S>& g) {
    at(kScale, channel) = g.scale;
    at(kMeanDz, channel) = g.mean_dz;
    at(kMeanDzXhat, channel) = g.mean_dz_xhat;
  }

  BatchNormConstants from(int64_t channel) const { return {values_.data() + channel, stride_}; }

 private:
  S& at(int field, int64_t channel) { return values_[field * stride_ + channel]; }

  int64_t stride_;
  std::vector<S> values_;
};

// One call. S: the type of the arithmetic.
template <class S>
class BatchNorm {
 public:
  BatchNorm(const Launch& launch, const BatchNormCall& call)
      : executor_(*launch.executor),
        call_(call),
        kernels_(kernels().batch_norm[static_cast<int>(call.dtype)]),
        plan_(call),
        layout_(plan_.planes() ? BatchNormKernels::kPlanes : BatchNormKernels::kColumns),
        size_(element_size(call.dtype)),
        weight_(parameter(call.weight, 1)),
        bias_(parameter(call.bias, 0)),
        constants_(call.channels) {
    if (call.output_statistics == nullptr) return;
    partials_.resize(plan_.chunks() * plan_.groups());
    active_.resize(plan_.chunks() * call.channels);
  }

  void run() {
    compute();
    if (call_.output_statistics != nullptr) merge_statistics();
  }

 private:
  void compute() {
    switch (call_.pass) {
      case BatchNormPass::kMoments:
        return reduce([&](int64_t channel, const Moments& moments) {
          call_.mean[channel] = moments.mean;
          call_.sum_squared_deviations[channel] = moments.squares;
        });
      case BatchNormPass::kForward:
        return reduce_and_write([&](int64_t channel, const Moments& moments) {
          call_.mean[channel] = moments.mean;
          call_.invstd[channel] = formulas::invstd_of(moments.variance(), call_.eps);
          move_running(channel, moments);
          prepare(channel);
        });
      case BatchNormPass::kNormalise:
        prepare_all();
        return write();
      case BatchNormPass::kSums:
        prepare_all();
        return reduce([&](int64_t channel, const Sums& sums) { keep(channel, sums); });
      case BatchNormPass::kBackward:
        prepare_all();
        return reduce_and_write([&](int64_t channel, const Sums& sums) {
          keep(channel, sums);
          prepare_gradient(channel, static_cast<double>(call_.outer * call_.inner));
        });
      case BatchNormPass::kInputGradient:
        prepare_all();
        for (int64_t c = 0; c < call_.channels; c++) prepare_gradient(c, call_.count);
        return write();
    }
  }

  // Of dz and dz * xhat over a chunk or a channel.
  struct Sums {
    double dz = 0, dz_xhat = 0;
    void merge(const Sums& other) {
      dz += other.dz;
      dz_xhat += other.dz_xhat;
    }
  };

  // ---- what a channel has
  // ------------------------------------------------------------------------

  // A parameter of all channels.
  std::vector<double> parameter(const void* of_channels, double otherwise) const {
    std::vector<double> values(call_.channels, otherwise);
    if (of_channels != nullptr) {
      read_scalars(of_channels, call_.parameter_dtype, call_.channels, values.data());
    }
    return values;
  }

  void prepare(int64_t channel) {
    const double weight = weight_[channel], bias = bias_[channel];
    constants_.set(
        channel, formulas::is_of_output(call_.activation)
                     ? Normalisation<S>::of_output(weight, bias)
                     : Normalisation<S>(call_.mean[channel], call_.invstd[channel], weight, bias));
  }
  void prepare_all() {
    for (int64_t c = 0; c < call_.channels; c++) prepare(c);
  }
  void prepare_gradient(int64_t channel, double count) {
    constants_.set(channel,
                   InputGradient<S>(weight_[channel], call_.invstd[channel], call_.sum_dz[channel],
                                    call_.sum_dz_xhat[channel], count));
  }
  void keep(int64_t channel, const Sums& sums) {
    call_.sum_dz[channel] = sums.dz;
    call_.sum_dz_xhat[channel] = sums.dz_xhat;
  }
  void move_running(int64_t channel, const Moments& moments) const {
    move(call_.running_mean, channel, moments.mean);
    move(call_.running_var, channel, moments.unbiased_variance());
  }
  void move(void* running, int64_t channel, double of_batch) const {
    if (running == nullptr) return;
    const double before = read_scalar(running, call_.running_dtype, channel);
    round_scalar(formulas::moved(before, call_.momentum, of_batch),
                 advanced(running, channel * element_size(call_.running_dtype)),
                 call_.running_dtype);
  }

  // ---- a chunk
  // -----------------------------------------------------------------------------------

  BatchNormElements elements_from(int64_t begin) const {
    const int64_t bytes = begin * size_;
    return {advanced(call_.x, bytes),           advanced(call_.residual, bytes),
            advanced(call_.grad_output, bytes), advanced(call_.y, bytes),
            advanced(call_.grad_input, bytes),  advanced(call_.grad_residual, bytes)};
  }

  void measure(const BatchNormChunk& chunk, Moments* of_channels) const {
    kernels_.moments[layout_](chunk.runs, advanced(call_.x, chunk.begin * size_), of_channels);
  }
  void measure(const BatchNormChunk& chunk, Sums* of_channels) const {
    double dz[kBatchNormColumns], dz_xhat[kBatchNormColumns];
    kernels_.sums[call_.activation][layout_](chunk.runs, constants_.from(chunk.channel),
                                             call_.parameters, elements_from(chunk.begin), dz,
                                             dz_xhat);
    for (int64_t i = 0; i < chunk.channels; i++) of_channels[i] = {dz[i], dz_xhat[i]};
  }
  // Writes a group's i-th chunk.
  void write(int64_t group, int64_t i) {
    const BatchNormChunk chunk = plan_.chunk(group, i);
    const BatchNormConstants constants = constants_.from(chunk.channel);
    const BatchNormElements elements = elements_from(chunk.begin);
    if (call_.output_statistics != nullptr) {
      return kernels_.normalise_and_measure[call_.activation][layout_](
          chunk.runs, constants, call_.parameters, elements,
          partials_[i * plan_.groups() + group].value,
          &active_[i * call_.channels + chunk.channel]);
    }
    write_runs(chunk.runs, constants, elements);
  }
  void write_runs(const Runs& runs, const BatchNormConstants& constants,
                  const BatchNormElements& elements) const {
    const auto& passes = inputs_have_gradients() ? kernels_.input_gradient : kernels_.normalise;
    passes[call_.activation][layout_](runs, constants, call_.parameters, elements);
  }
  bool inputs_have_gradients() const { return !gives_values(call_.pass); }

  // ---- all chunks
  // --------------------------------------------------------------------------------

  // Calls visit(begin, end) for runs of units, of which each costs so many elements.
  template <class Visit>
  void for_units(int64_t units, int64_t cost, Visit visit) const {
    for_each_part(executor_, units * cost, [&](int64_t begin, int64_t end) {
      // A unit belongs to the part in which it begins.
      const int64_t first = (begin + cost - 1) / cost, behind = (end + cost - 1) / cost;
      if (first < behind) visit(first, behind);
    });
  }

  // Calls visit(group, index of the chunk) for all chunks, in the order of memory.
  template <class Visit>
  void for_chunks(Visit visit) const {
    const int64_t groups = plan_.groups();
    const int64_t cost = std::max<int64_t>(1, plan_.group_elements() / plan_.chunks());
    for_units(groups * plan_.chunks(), cost, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) visit(i % groups, i / groups);
    });
  }

  void write() {
    // Statistics of the output are taken chunk by chunk.
    const bool in_rows = plan_.rows_at_once() > 0 && call_.output_statistics == nullptr;
    if (in_rows) return write_rows();
    for_chunks([&](int64_t group, int64_t i) { write(group, i); });
  }
  void write_rows() const {
    const int64_t block = plan_.rows_at_once(), channels = call_.channels;
    for_units((call_.outer + block - 1) / block, block * channels, [&](int64_t begin, int64_t end) {
      const int64_t first = begin * block, behind = std::min(end * block, call_.outer);
      write_runs({behind - first, channels, channels}, constants_.from(0),
                 elements_from(first * channels));
    });
  }

  // Of the output, from those of its chunks in their order.
  void merge_statistics() const {
    using Statistics = formulas::ActivationStatistics;
    auto merged = partials_[0];
    for (size_t i = 1; i < partials_.size(); i++) Statistics::merge(merged, partials_[i], 0);
    double* fields = call_.output_statistics;
    fields[kActivationCount] = static_cast<double>(call_.outer * call_.channels * call_.inner);
    std::copy_n(merged.value, Statistics::kFields, fields + kActivationSum);
    double* active = fields + kActivationStatisticCount;
    std::fill_n(active, call_.channels, 0.0);
    for (size_t i = 0; i < active_.size(); i++) active[i % call_.channels] += active_[i];
  }

  // The results of a group's channels, from those of its chunks in their order.
  template <class Result, class Finish>
  void finish_group(int64_t group, const Result* of_chunks, int64_t stride, Finish finish) const {
    for (int64_t i = 0; i < plan_.channels(group); i++) {
      Result merged = of_chunks[i];
      for (int64_t k = 1; k < plan_.chunks(); k++) merged.merge(of_chunks[k * stride + i]);
      finish(plan_.channel(group) + i, merged);
    }
  }

  // What a chunk's or channel's result is, by what finish(channel, result) takes.
  template <class Finish>
  using ResultOf =
      std::conditional_t<std::is_invocable_v<Finish, int64_t, const Moments&>, Moments, Sums>;

  // Measures all chunks, then calls finish(channel, result) for every channel.
  template <class Finish>
  void reduce(Finish finish) const {
    using Result = ResultOf<Finish>;
    std::vector<Result> results(plan_.chunks() * call_.channels);
    for_chunks([&](int64_t group, int64_t i) {
      measure(plan_.chunk(group, i), &results[i * call_.channels + plan_.channel(group)]);
    });
    for (int64_t group = 0; group < plan_.groups(); group++) {
      finish_group(group, &results[plan_.channel(group)], call_.channels, finish);
    }
  }

  // The same, and then writes; group by group where one stays in the cache in between.
  template <class Finish>
  void reduce_and_write(Finish finish) {
    const int64_t tensors = inputs_have_gradients() ? (call_.residual != nullptr ? 3 : 2) : 1;
    const int64_t held = plan_.planes() ? kHeldBytes : kHeldBytesOfColumns;
    if (plan_.group_elements() * size_ * tensors > held) {
      reduce(finish);
      return write();
    }
    using Result = ResultOf<Finish>;
    for_units(plan_.groups(), plan_.group_elements(), [&](int64_t begin, int64_t end) {
      std::vector<Result> results(plan_.chunks() * kBatchNormColumns);
      for (int64_t group = begin; group < end; group++) {
        for (int64_t i = 0; i < plan_.chunks(); i++) {
          measure(plan_.chunk(group, i), &results[i * kBatchNormColumns]);
        }
        finish_group(group, results.data(), kBatchNormColumns, finish);
        for (int64_t i = 0; i < plan_.chunks(); i++) write(group, i);
      }
    });
  }

  const Executor& executor_;
  const BatchNormCall& call_;
  const BatchNormKernels& kernels_;
  const BatchNormPlan plan_;
  const BatchNormKernels::Layout layout_;
  const int64_t size_;
  const std::vector<double> weight_, bias_;
  ChannelConstants<S> constants_;
  // Of each chunk's output.
  std::vector<formulas::Partial<formulas::ActivationStatistics::kFields>> partials_;
  std::vector<double> active_;
};

}  // namespace

size_t batch_norm_workspace(const BatchNormCall&) { return 0; }

void batch_norm(const Launch& launch, const BatchNormCall& call) {
  if (call.dtype == DType::kFloat64) {
    BatchNorm<double>(launch, call).run();
  } else {
    BatchNorm<float>(launch, call).run();
  }
}

}  // namespace gradkern::cpu
