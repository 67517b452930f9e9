// How batch normalisation is cut into chunks: arithmetic on sizes alone, so that neither the sums
// nor their order depend on threads or the machine.
#pragma once

#include <algorithm>
#include <cstdint>

#include "batch_norm_call.h"
#include "cpu/batch_norm_kernels.h"

namespace gradkern::cpu {

// A chunk: its first element, its runs, and its channels.
struct BatchNormChunk {
  int64_t begin;
  Runs runs;
  int64_t channel, channels;
};

// Planes (inner > 1): a group is a channel. Columns (inner = 1): a group is up to
// kBatchNormColumns channels that lie side by side. Each group has the same number of chunks.
class BatchNormPlan {
 public:
  explicit BatchNormPlan(const BatchNormCall& call)
      : outer_(call.outer), channels_(call.channels), inner_(call.inner), planes_(inner_ > 1) {
    if (!planes_) {
      width_ = std::min(channels_, kBatchNormColumns);
      runs_ = std::max<int64_t>(1, kChunk / width_);
    } else {
      width_ = 1;
      runs_ = std::max<int64_t>(1, kChunk / inner_);
      // Long planes are cut themselves.
      pieces_ = (inner_ + kChunk - 1) / kChunk;
      piece_ = (inner_ + pieces_ - 1) / pieces_;
    }
    groups_ = (channels_ + width_ - 1) / width_;
    chunks_ = (outer_ + runs_ - 1) / runs_ * pieces_;
  }

  bool planes() const { return planes_; }
  int64_t groups() const { return groups_; }
  int64_t chunks() const { return chunks_; }
  int64_t group_elements() const { return outer_ * inner_ * width_; }

  int64_t channel(int64_t group) const { return group * width_; }
  int64_t channels(int64_t group) const { return std::min(width_, channels_ - channel(group)); }

  // Columns can also be written in whole rows, so many at a time; 0 where they can't. Groups of
  // columns take up to half as long again: each of their rows lies in a page of its own, and rows
  // of a power of two fall into few of a cache's sets.
  int64_t rows_at_once() const { return planes_ ? 0 : kChunk / channels_; }

  BatchNormChunk chunk(int64_t group, int64_t index) const {
    const int64_t first = index / pieces_ * runs_, piece = index % pieces_ * piece_;
    const int64_t runs = std::min(runs_, outer_ - first);
    const int64_t channel = this->channel(group);
    if (!planes_) {
      return {first * channels_ + channel,
              {runs, channels_, channels(group)},
              channel,
              channels(group)};
    }
    return {(first * channels_ + channel) * inner_ + piece,
            {runs, channels_ * inner_, std::min(piece_, inner_ - piece)},
            channel,
            1};
  }

 private:
  static constexpr int64_t kChunk = 32768;  // elements, about

  int64_t outer_, channels_, inner_;
  bool planes_;
  int64_t width_ = 1, runs_ = 1, pieces_ = 1, piece_ = 1, groups_ = 1, chunks_ = 1;
};

}  // namespace gradkern::cpu
