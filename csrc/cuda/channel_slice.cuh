// Which vectors of operands with channels a thread has: by the index alone, so that no bits depend
// on alignment.
#pragma once

#include "cuda/channel_plan.h"
#include "cuda/elements.cuh"
#include "cuda/platform.h"

namespace gradkern::cuda {

// A plan, for kernels.
struct ChannelGrid {
  ChannelSizes sizes;
  int64_t tiles, chunks, chunk;
  int32_t across;
  double* partials;
  unsigned* counters;  // zero before the launch

  __device__ bool has(int64_t unit) const { return unit < tiles * chunks; }
};

inline ChannelGrid channel_grid(const ChannelSizes& sizes, const ChannelPlan& plan) {
  return {sizes, plan.tiles, plan.chunks, plan.chunk, plan.across, nullptr, nullptr};
}

// For a reduction to `fields` numbers for each channel; launch.workspace has room for them.
inline ChannelGrid channel_grid(const ChannelSizes& sizes, const ChannelPlan& plan, int fields,
                                const Launch& launch) {
  ChannelGrid grid = channel_grid(sizes, plan);
  const ChannelWorkspace layout(sizes, plan, fields);
  if (layout.bytes == 0) return grid;
  char* workspace = static_cast<char*>(launch.workspace);
  grid.partials = reinterpret_cast<double*>(workspace + layout.partials);
  grid.counters = reinterpret_cast<unsigned*>(workspace + layout.counters);
  fill_zero(grid.counters, layout.bytes - layout.counters, launch.stream);
  return grid;
}

// Where a vector lies. Its elements from `count` on belong to the next plane or row, and are left
// alone; 0 or less: a thread behind the last column.
struct Place {
  int64_t index;   // in its channel, from the chunk's first (planes)
  int64_t offset;  // of its first element
  int64_t count;
};

// The vectors of a chunk of a tile (channel_plan.h), one after the other.
template <class T, bool kColumns>
class Slice;

template <class T>
class Slice<T, false> {
 public:
  static constexpr int kSize = Vector<T>::kSize;
  static constexpr int kChannels = 1;  // of which a thread has elements

  __device__ Slice(const ChannelGrid& grid, int64_t unit)
      : inner_(grid.sizes.inner),
        begin_(unit / grid.tiles * grid.chunk),
        index_(begin_ + threadIdx.x) {
    channel_ = unit % grid.tiles;
    vectors_ = (inner_ + kSize - 1) / kSize;
    const int64_t all = grid.sizes.outer * vectors_;
    end_ = begin_ + grid.chunk < all ? begin_ + grid.chunk : all;
    values_ = elements_before(end_) - elements_before(begin_);
    stride_ = grid.sizes.channels * inner_;
    first_ = offset_of(begin_);
    vector_ = index_ % vectors_;
    offset_ = offset_of(index_);
    vector_step_ = kThreads % vectors_;
    offset_step_ = kThreads / vectors_ * stride_ + vector_step_ * kSize;
  }

  // The tile's channels: from the first on, so many.
  __device__ int64_t channel() const { return channel_; }
  __device__ int64_t channels() const { return 1; }
  // Of the thread's channels the k-th.
  __device__ int64_t channel_of_element(int) const { return channel_; }
  // The offset of the chunk's first value, for the tile's first channel.
  __device__ int64_t first() const { return first_; }
  // How many values the chunk has of each channel.
  __device__ int64_t values() const { return values_; }

  // Whether there are so many more of this thread's vectors.
  __device__ bool has(int vectors) const { return index_ + (vectors - 1) * kThreads < end_; }
  __device__ Place place() const {
    return {index_ - begin_, offset_, inner_ - vector_ * static_cast<int64_t>(kSize)};
  }
  __device__ void advance() {
    index_ += kThreads;
    vector_ += vector_step_;
    offset_ += offset_step_;
    if (vector_ >= vectors_) {
      vector_ -= vectors_;
      offset_ += stride_ - vectors_ * kSize;
    }
  }

 private:
  __device__ int64_t offset_of(int64_t index) const {
    return index / vectors_ * stride_ + channel_ * inner_ + index % vectors_ * kSize;
  }
  __device__ int64_t elements_before(int64_t index) const {
    const int64_t in_plane = index % vectors_ * kSize;
    return index / vectors_ * inner_ + in_plane;
  }

  int64_t inner_, begin_, index_, end_, channel_, vectors_, values_, stride_, first_;
  int64_t vector_, offset_, vector_step_, offset_step_;
};

template <class T>
class Slice<T, true> {
 public:
  static constexpr int kSize = Vector<T>::kSize;
  static constexpr int kChannels = kSize;

  __device__ Slice(const ChannelGrid& grid, int64_t unit)
      : all_channels_(grid.sizes.channels), step_(kThreads / grid.across) {
    const int64_t width = grid.across * kSize;
    channel_ = unit % grid.tiles * width;
    channels_ = width < all_channels_ - channel_ ? width : all_channels_ - channel_;
    const int64_t begin = unit / grid.tiles * grid.chunk;
    end_ = begin + grid.chunk < grid.sizes.outer ? begin + grid.chunk : grid.sizes.outer;
    values_ = end_ - begin;
    first_ = begin * all_channels_ + channel_;
    own_channel_ = channel_ + threadIdx.x % grid.across * kSize;
    index_ = begin + threadIdx.x / grid.across;
    offset_ = index_ * all_channels_ + own_channel_;
  }

  __device__ int64_t channel() const { return channel_; }
  __device__ int64_t channels() const { return channels_; }
  // The last channel stands in for those behind it.
  __device__ int64_t channel_of_element(int k) const {
    return own_channel_ + k < all_channels_ ? own_channel_ + k : all_channels_ - 1;
  }
  __device__ int64_t first() const { return first_; }
  __device__ int64_t values() const { return values_; }

  __device__ bool has(int rows) const { return index_ + (rows - 1) * step_ < end_; }
  __device__ Place place() const { return {0, offset_, all_channels_ - own_channel_}; }
  __device__ void advance() {
    index_ += step_;
    offset_ += step_ * all_channels_;
  }

 private:
  int64_t all_channels_, step_, channel_, channels_, end_, values_, first_;
  int64_t own_channel_, index_, offset_;
};

// Whether all vectors of operands at these addresses are aligned and whole.
template <class T, bool kColumns, class... Pointer>
__device__ __forceinline__ bool are_aligned(const ChannelGrid& grid, Pointer... operands) {
  const int64_t row = kColumns ? grid.sizes.channels : grid.sizes.inner;
  return row % Vector<T>::kSize == 0 && (is_aligned(static_cast<const T*>(operands)) && ...);
}

// Calls visit(place, vectors) for the thread's vectors of each input, kAtOnce of which are loaded
// before the first is visited. The elements from a place's count on are `pad`, and all of those of
// the last kOptional inputs where they are null.
template <int kAtOnce, int kOptional = 0, class T, bool kColumns, int kIn, class Visit>
__device__ __forceinline__ void each_vector(Slice<T, kColumns> slice, const T* const (&in)[kIn],
                                            bool aligned, T pad, Visit visit) {
  const auto load = [&](const Place& place, Vector<T>(&v)[kIn]) {
#pragma unroll
    for (int k = 0; k < kIn; k++) {
      v[k] = k >= kIn - kOptional && in[k] == nullptr
                 ? load_some(in[k], 0, aligned, pad)
                 : load_some(in[k] + place.offset, place.count, aligned, pad);
    }
  };
  // Copies of the loops' bodies would cost registers; kAtOnce says how many there are.
  if constexpr (kAtOnce > 1) {
#pragma unroll 1
    while (slice.has(kAtOnce)) {
      Place places[kAtOnce];
      Vector<T> v[kAtOnce][kIn];
#pragma unroll
      for (int j = 0; j < kAtOnce; j++) {
        places[j] = slice.place();
        load(places[j], v[j]);
        slice.advance();
      }
#pragma unroll
      for (int j = 0; j < kAtOnce; j++) visit(places[j], v[j]);
    }
  }
#pragma unroll 1
  for (; slice.has(1); slice.advance()) {
    Vector<T> v[kIn];
    load(slice.place(), v);
    visit(slice.place(), v);
  }
}

}  // namespace gradkern::cuda
