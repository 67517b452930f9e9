#include "cpu/cpu_softmax.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <new>
#include <vector>

#include "cpu/parallel.h"
#include "cpu/softmax_kernels.h"
#include "formulas/softmax.h"

namespace gradkern::cpu {
namespace {

using formulas::SoftmaxPartial;

// Entries of a part of a row that does not fit the scratch memory: what it reads stays in the
// second-level cache between its two passes.
constexpr int64_t kPart = 16384;

// A thread's scratch memory, kept between calls: fresh pages would cost more than the arithmetic.
class Scratch {
 public:
  void* get() {
    if (!data_) {
      data_.reset(static_cast<char*>(::operator new(kSoftmaxScratchBytes, kAlignment)));
    }
    return data_.get();
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(char* data) const { ::operator delete(data, kAlignment); }
  };
  std::unique_ptr<char, Free> data_;
};

void* scratch() {
  static thread_local Scratch of_thread;
  return of_thread.get();
}

// The size in which an element is computed.
int64_t narrow_size(DType dtype) { return dtype == DType::kFloat64 ? 8 : 4; }

class Softmax {
 public:
  Softmax(const Launch& launch, const SoftmaxCall& call)
      : executor_(*launch.executor),
        call_(call),
        kernels_(softmax_kernels_of(call.pass, call.dtype)),
        size_(element_size(call.dtype)) {}

  void run() const {
    if (call_.inner > 1) {
      columns();
    } else if (call_.size * narrow_size(call_.dtype) <= kSoftmaxScratchBytes) {
      rows();
    } else {
      long_rows();
    }
  }

 private:
  // The operands from an element on.
  struct Operands {
    const void* in[2];
    void* out;
  };
  Operands at(int64_t element) const {
    Operands operands{};
    for (int k = 0; k < inputs_of(call_.pass); k++) {
      operands.in[k] = static_cast<const char*>(call_.in[k]) + element * size_;
    }
    operands.out = static_cast<char*>(call_.out) + element * size_;
    return operands;
  }

  // Calls visit(begin, end) for runs of `count` units, of which each costs so many elements.
  template <class Visit>
  void for_units(int64_t count, int64_t cost, Visit visit) const {
    for_each_part(executor_, count * cost, [&](int64_t begin, int64_t end) {
      // A unit belongs to the part in which it begins.
      const int64_t first = (begin + cost - 1) / cost, behind = (end + cost - 1) / cost;
      if (first < behind) visit(first, behind);
    });
  }

  void rows() const {
    for_units(call_.outer, call_.size, [&](int64_t begin, int64_t end) {
      const Operands from = at(begin * call_.size);
      kernels_.rows(from.in, from.out, end - begin, call_.size, scratch());
    });
  }

  // Parts of fixed size, so that neither the sums nor their order depend on the threads.
  void long_rows() const {
    const int64_t parts = (call_.size + kPart - 1) / kPart;
    std::vector<SoftmaxPartial> partials(call_.outer * parts);
    const auto each_part = [&](int64_t begin, int64_t end, auto visit) {
      for (int64_t i = begin; i < end; i++) {
        const int64_t row = i / parts, first = i % parts * kPart;
        visit(i, row, at(row * call_.size + first), std::min(kPart, call_.size - first));
      }
    };
    for_units(call_.outer * parts, kPart, [&](int64_t begin, int64_t end) {
      each_part(begin, end, [&](int64_t i, int64_t, const Operands& from, int64_t n) {
        kernels_.measure(from.in, n, &partials[i]);
      });
    });
    const std::vector<SoftmaxPartial> merged = merge_parts(partials, parts);
    for_units(call_.outer * parts, kPart, [&](int64_t begin, int64_t end) {
      each_part(begin, end, [&](int64_t, int64_t row, const Operands& from, int64_t n) {
        kernels_.finish(from.in, from.out, n, merged[row]);
      });
    });
  }

  // Of every row, in the order of its parts.
  std::vector<SoftmaxPartial> merge_parts(const std::vector<SoftmaxPartial>& partials,
                                          int64_t parts) const {
    std::vector<SoftmaxPartial> merged(call_.outer);
    for (int64_t row = 0; row < call_.outer; row++) {
      const SoftmaxPartial* of_row = &partials[row * parts];
      // Against the largest of all: each part is scaled once.
      double largest = of_row[0].largest;
      for (int64_t p = 1; p < parts; p++) largest = formulas::larger(of_row[p].largest, largest);
      merged[row] = {largest, formulas::CompensatedSum<double>::zero()};
      for (int64_t p = 0; p < parts; p++) formulas::merge(merged[row], of_row[p]);
    }
    return merged;
  }

  void columns() const {
    // What a pass reads again stays in the second-level cache: the staged entries of a forward
    // pass, both inputs of a backward one.
    const int64_t entry = inputs_of(call_.pass) == 1 ? narrow_size(call_.dtype) : 2 * size_;
    constexpr int64_t kPack = 16;
    const int64_t fitting = kSoftmaxScratchBytes / (entry * call_.size) / kPack * kPack;
    // Of columns too long for that, as few as fill a cache line of the narrowest type twice.
    const int64_t widest = fitting > 0 ? std::min(fitting, kTileColumns) : 4 * kPack;
    const int64_t tiles = (call_.inner + widest - 1) / widest;
    // Tiles of about one width, whole packs each.
    const int64_t width = ((call_.inner + tiles - 1) / tiles + kPack - 1) / kPack * kPack;
    const int64_t block = kSoftmaxScratchBytes / (narrow_size(call_.dtype) * width);
    for_units(call_.outer * tiles, std::min(width, call_.inner) * call_.size,
              [&](int64_t begin, int64_t end) {
                for (int64_t i = begin; i < end; i++) {
                  const int64_t column = i % tiles * width;
                  const int64_t columns = std::min(width, call_.inner - column);
                  if (columns <= 0) continue;
                  const Operands from = at(i / tiles * call_.size * call_.inner + column);
                  kernels_.columns(from.in, from.out, {columns, call_.size, call_.inner, block},
                                   scratch());
                }
              });
  }

  const Executor& executor_;
  const SoftmaxCall& call_;
  const SoftmaxKernels& kernels_;
  const int64_t size_;
};

}  // namespace

void softmax(const Launch& launch, const SoftmaxCall& call) { Softmax(launch, call).run(); }

}  // namespace gradkern::cpu
