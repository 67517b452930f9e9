// How a list of tensors is cut into chunks, and chunks into tasks for threads.
//
// The chunks depend on the tensors alone, never on the number of threads, so neither do the
// results: every chunk has a place of its own for its partial result. Tasks are contiguous runs of
// chunks of about equal cost.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "backend.h"

namespace gradkern::cpu {

// 64 KiB of float32: a chunk that must be read twice is still in the second-level cache.
inline constexpr int64_t kChunk = 16384;

// One chunk: elements [begin, begin + size) of a tensor, all in one of its segments.
struct Chunk {
  int64_t tensor;
  int64_t begin;
  int64_t size;
  int64_t global_chunk;    // over the whole list
  int64_t global_segment;  // over the whole list
};

class WorkPlan {
 public:
  explicit WorkPlan(TensorSpans tensors) : tensors_(tensors) {
    parts_.resize(tensors.size + 1);
    Part at{0, 0, 0};
    for (int64_t t = 0; t < tensors.size; t++) {
      parts_[t] = at;
      at.chunk += tensors[t].segments() * chunks_per_segment(t);
      at.segment += tensors[t].segments();
      at.cost += tensors[t].segments() * chunks_per_segment(t) * cost_per_chunk(t);
    }
    parts_[tensors.size] = at;
  }

  int64_t chunks() const { return parts_.back().chunk; }
  int64_t segments() const { return parts_.back().segment; }
  int64_t cost() const { return parts_.back().cost; }

  int64_t first_segment(int64_t tensor) const { return parts_[tensor].segment; }
  int64_t first_chunk(int64_t tensor) const { return parts_[tensor].chunk; }
  int64_t chunks_per_segment(int64_t tensor) const {
    return std::max<int64_t>(1, (tensors_[tensor].segment + kChunk - 1) / kChunk);
  }

  // Calls visit(const Chunk&) for every chunk whose first unit of cost lies in [begin, end).
  template <class Visit>
  void each_chunk(int64_t begin, int64_t end, Visit visit) const {
    int64_t tensor = std::upper_bound(parts_.begin(), parts_.end(), begin,
                                      [](int64_t cost, const Part& p) { return cost < p.cost; }) -
                     parts_.begin() - 1;
    if (begin == 0) tensor = 0;
    for (; tensor < tensors_.size && parts_[tensor].cost < end; tensor++) {
      const TensorSpan& span = tensors_[tensor];
      const int64_t per_segment = chunks_per_segment(tensor);
      const int64_t cost = cost_per_chunk(tensor);
      const int64_t total = parts_[tensor + 1].chunk - parts_[tensor].chunk;
      // Only the first tensor can have begun before, so only there is something to divide; of many
      // small tensors divisions would take a third of the time.
      const int64_t before = begin - parts_[tensor].cost;
      int64_t i = before > 0 ? (before + cost - 1) / cost : 0;
      int64_t segment = i < per_segment ? 0 : i / per_segment;
      int64_t chunk = i - segment * per_segment;
      for (; i < total && parts_[tensor].cost + i * cost < end; i++) {
        const int64_t offset = chunk * kChunk;
        visit(Chunk{tensor, segment * span.segment + offset,
                    std::min(kChunk, span.segment - offset), parts_[tensor].chunk + i,
                    parts_[tensor].segment + segment});
        if (++chunk == per_segment) {
          chunk = 0;
          segment++;
        }
      }
    }
  }

 private:
  struct Part {
    int64_t chunk, segment, cost;
  };

  // In elements; a call costs about as much as a hundred of them.
  int64_t cost_per_chunk(int64_t tensor) const {
    return std::min(tensors_[tensor].segment, kChunk) + 100;
  }

  TensorSpans tensors_;
  std::vector<Part> parts_;
};

}  // namespace gradkern::cpu
