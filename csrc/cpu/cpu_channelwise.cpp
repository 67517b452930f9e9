#include "cpu/cpu_channelwise.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "cpu/channelwise_kernels.h"
#include "cpu/parallel.h"
#include "cpu/round_scalar.h"

namespace gradkern::cpu {
namespace {

using Layout = ChannelwiseKernels::Layout;

// Shorter runs of one channel are columns of a wider row: vectors, and cache lines, would be
// shared.
constexpr int64_t kShortestPlane = 64;

// A tile of columns: its sums stay in the first-level cache.
constexpr int64_t kTileColumns = 2048;

// Elements of a task with sums of its own.
constexpr int64_t kTile = 131072, kPlanePart = 16384;

int64_t rounded_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

class Channelwise {
 public:
  Channelwise(const Launch& launch, const ChannelwiseCall& call)
      : executor_(*launch.executor),
        call_(call),
        kernels_(kernels().channelwise[static_cast<int>(call.dtype)]),
        size_(element_size(call.dtype)),
        weight_(static_cast<const char*>(call.weight)) {
    if (call.channels == 1) {
      call_.inner *= call_.outer;
      call_.outer = 1;
    }
    layout_ = Layout::kPlanes;
    if (call_.inner == 1 || (call_.channels > 1 && call_.inner < kShortestPlane)) {
      layout_ = Layout::kColumns;
      columns_ = call_.channels * call_.inner;
      if (call_.inner > 1) repeat_weights();
    }
  }

  void run() const {
    if (call_.pass == ChannelwisePass::kValue) {
      layout_ == Layout::kColumns ? value_of_columns() : value_of_planes();
    } else {
      layout_ == Layout::kColumns ? backward_of_columns() : backward_of_planes();
    }
  }

 private:
  // One for each column.
  void repeat_weights() {
    repeated_.resize(columns_ * size_);
    for (int64_t c = 0; c < columns_; c++) {
      std::memcpy(&repeated_[c * size_], weight_ + c / call_.inner * size_, size_);
    }
    weight_ = repeated_.data();
  }

  const void* in(int k, int64_t element) const {
    return static_cast<const char*>(call_.in[k]) + element * size_;
  }
  void* out(int64_t element) const { return static_cast<char*>(call_.out) + element * size_; }

  void value(int64_t element, int64_t weight, const ChannelRuns& runs) const {
    kernels_.value[call_.activation][layout_](in(0, element), weight_ + weight * size_,
                                              out(element), runs);
  }
  void backward(int64_t element, int64_t weight, double* sums, const ChannelRuns& runs) const {
    kernels_.backward[call_.activation][layout_](
        in(0, element), in(1, element), weight_ + weight * size_, out(element), sums, runs);
  }

  int64_t numel() const { return call_.outer * call_.channels * call_.inner; }

  // Calls visit(begin, end) for parts that begin and end at whole cache lines of a row of elements.
  template <class Visit>
  void for_elements(int64_t row, Visit visit) const {
    constexpr int64_t kGrain = 64;
    const auto rounded = [&](int64_t element) {
      return element == numel() ? element : element - element % row % kGrain;
    };
    for_each_part(executor_, numel(),
                  [&](int64_t begin, int64_t end) { visit(rounded(begin), rounded(end)); });
  }

  // Calls visit(task) for tasks that cost so many elements each.
  template <class Visit>
  void for_tasks(int64_t tasks, int64_t cost, Visit visit) const {
    for_each_part(executor_, tasks * cost, [&](int64_t begin, int64_t end) {
      // A task belongs to the part in which it begins.
      for (int64_t t = (begin + cost - 1) / cost; t * cost < end; t++) visit(t);
    });
  }

  void value_of_columns() const {
    for_elements(columns_, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end;) {
        const int64_t column = i % columns_;
        const int64_t rows = column == 0 ? (end - i) / columns_ : 0;
        const ChannelRuns runs = rows > 0 ? ChannelRuns{rows, columns_, columns_}
                                          : ChannelRuns{1, std::min(columns_ - column, end - i), 0};
        value(i, column, runs);
        i += runs.count * runs.size;
      }
    });
  }

  void value_of_planes() const {
    for_elements(call_.inner, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end;) {
        const int64_t n = std::min(call_.inner - i % call_.inner, end - i);
        value(i, i / call_.inner % call_.channels, {1, n, 0});
        i += n;
      }
    });
  }

  // Tiles of rows and columns; each column's sums of the tiles are added from the first row on.
  void backward_of_columns() const {
    const int64_t width = std::min(columns_, kTileColumns), height = kTile / width;
    const int64_t tiles = (columns_ + width - 1) / width;
    const int64_t bands = (call_.outer + height - 1) / height;
    const int64_t stride = rounded_up(columns_, kSumLanes);
    std::vector<double> sums(bands * stride);
    for_tasks(bands * tiles, std::min(height, call_.outer) * width, [&](int64_t task) {
      const int64_t row = task / tiles * height, column = task % tiles * width;
      backward(row * columns_ + column, column, &sums[task / tiles * stride + column],
               {std::min(height, call_.outer - row), std::min(width, columns_ - column), columns_});
    });
    for (int64_t band = 1; band < bands; band++) {
      for (int64_t c = 0; c < columns_; c++) sums[c] += sums[band * stride + c];
    }
    write_sums(sums, call_.inner);
  }

  // Parts of planes, several planes of a channel at once where they are short.
  void backward_of_planes() const {
    const int64_t planes = std::max<int64_t>(1, kPlanePart / call_.inner);
    const int64_t groups = (call_.outer + planes - 1) / planes;
    const int64_t parts = (call_.inner + kPlanePart - 1) / kPlanePart;
    std::vector<double> sums(call_.channels * groups * parts);
    const int64_t cost = std::min(planes, call_.outer) * std::min(call_.inner, kPlanePart);
    for_tasks(call_.channels * groups * parts, cost, [&](int64_t task) {
      const int64_t channel = task / (groups * parts), outer = task / parts % groups * planes;
      const int64_t offset = task % parts * kPlanePart;
      double lanes[kSumLanes] = {};
      backward((outer * call_.channels + channel) * call_.inner + offset, channel, lanes,
               {std::min(planes, call_.outer - outer), std::min(kPlanePart, call_.inner - offset),
                call_.channels * call_.inner});
      for (const double lane : lanes) sums[task] += lane;
    });
    write_sums(sums, groups * parts);
  }

  // Of each channel the sum of `count` numbers that lie side by side.
  void write_sums(const std::vector<double>& sums, int64_t count) const {
    for (int64_t c = 0; c < call_.channels; c++) {
      double total = sums[c * count];
      for (int64_t i = 1; i < count; i++) total += sums[c * count + i];
      round_scalar(total, static_cast<char*>(call_.grad_weight) + c * size_, call_.dtype);
    }
  }

  const Executor& executor_;
  ChannelwiseCall call_;
  const ChannelwiseKernels& kernels_;
  const int64_t size_;
  const char* weight_;
  Layout layout_;
  int64_t columns_ = 0;
  std::vector<char> repeated_;
};

}  // namespace

size_t channelwise_workspace(const ChannelwiseCall&) { return 0; }

void channelwise(const Launch& launch, const ChannelwiseCall& call) {
  Channelwise(launch, call).run();
}

}  // namespace gradkern::cpu
