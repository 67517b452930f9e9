// Which of the threads that can run does so next: the scheduling policies.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/random.h"

#pragma GCC visibility push(hidden)

namespace simt {

enum class Policy {
  kInOrder,  // the lowest thread first, as far as it gets
  kReverse,  // the highest first
  kRandom,   // any, with equal probability
  kSprint,   // warps have random priorities, so that one runs far ahead of the others
};
inline constexpr int kPolicyCount = 4;

// Threads are numbers. Those of a warp are consecutive, and so are those of a block.
class ReadyQueue {
 public:
  static constexpr std::uint32_t kNone = UINT32_MAX;

  // Empties the queue, for thread numbers below `threads`.
  void reset(Policy policy, std::size_t threads, Random* random);

  // Threads first..first+count-1, of a block that starts.
  void start(std::uint32_t first, std::uint32_t count);

  // Threads that waited: first..first+count-1, or of first..first+31 those in `lanes`.
  void wake_all(std::uint32_t first, std::uint32_t count);
  void wake_lanes(std::uint32_t first, std::uint32_t lanes);

  // A thread that lets others go first.
  void yield(std::uint32_t thread);

  // Takes out the next thread, or kNone.
  std::uint32_t pop();

 private:
  // The ordered policies keep a double-ended queue: threads that wake run before all others, as a
  // thread that is first in the order would; those of a new block, and those that yield, after.
  void push_front(std::uint32_t thread) { ring_[--front_ & ring_mask_] = thread; }
  void push_back(std::uint32_t thread) { ring_[back_++ & ring_mask_] = thread; }

  void wake(std::uint32_t thread);
  void push_by_priority(std::uint32_t thread);

  Policy policy_ = Policy::kInOrder;
  Random* random_ = nullptr;

  std::vector<std::uint32_t> ring_;
  std::uint32_t ring_mask_ = 0;
  std::uint32_t front_ = 0, back_ = 0;

  std::vector<std::uint32_t> bag_;  // kRandom, in no order

  std::vector<std::uint64_t> heap_;        // kSprint: priority in the high half, thread in the low
  std::vector<std::uint32_t> priorities_;  // of each thread
};

}  // namespace simt

#pragma GCC visibility pop
