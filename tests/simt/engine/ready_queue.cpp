#include "engine/ready_queue.h"

#include <algorithm>

#include "engine.h"

namespace simt {
namespace {

// One wake-up in so many gives a sprinting thread a new priority of its own, so that lanes part
// from their warps.
constexpr std::uint32_t kStraying = 64;

std::size_t power_of_two_from(std::size_t n) {
  std::size_t power = 1;
  while (power < n) power *= 2;
  return power;
}

}  // namespace

void ReadyQueue::reset(Policy policy, std::size_t threads, Random* random) {
  policy_ = policy;
  random_ = random;
  front_ = back_ = 0;
  bag_.clear();
  heap_.clear();
  switch (policy) {
    case Policy::kInOrder:
    case Policy::kReverse:
      if (ring_.size() < threads) ring_.resize(power_of_two_from(threads));
      ring_mask_ = static_cast<std::uint32_t>(ring_.size() - 1);
      break;
    case Policy::kRandom:
      bag_.reserve(threads);
      break;
    case Policy::kSprint:
      heap_.reserve(threads);
      if (priorities_.size() < threads) priorities_.resize(threads);
      break;
  }
}

void ReadyQueue::start(std::uint32_t first, std::uint32_t count) {
  switch (policy_) {
    case Policy::kInOrder:
      for (std::uint32_t i = 0; i < count; ++i) push_back(first + i);
      break;
    case Policy::kReverse:
      for (std::uint32_t i = count; i-- > 0;) push_back(first + i);
      break;
    case Policy::kRandom:
      for (std::uint32_t i = 0; i < count; ++i) bag_.push_back(first + i);
      break;
    case Policy::kSprint: {
      constexpr std::uint32_t kLaneBits = 0xfff;  // lanes differ a little, warps a lot
      std::uint32_t warp_priority = 0;
      for (std::uint32_t i = 0; i < count; ++i) {
        if (i % warpSize == 0) warp_priority = random_->next() & ~kLaneBits;
        priorities_[first + i] = warp_priority | (random_->next() & kLaneBits);
        push_by_priority(first + i);
      }
      break;
    }
  }
}

void ReadyQueue::wake_all(std::uint32_t first, std::uint32_t count) {
  // At the front of a queue the last to be pushed is the first to run.
  if (policy_ == Policy::kInOrder) {
    for (std::uint32_t i = count; i-- > 0;) push_front(first + i);
  } else {
    for (std::uint32_t i = 0; i < count; ++i) wake(first + i);
  }
}

void ReadyQueue::wake_lanes(std::uint32_t first, std::uint32_t lanes) {
  while (lanes != 0) {
    const int lowest = __builtin_ctz(lanes), highest = 31 - __builtin_clz(lanes);
    const int lane = policy_ == Policy::kInOrder ? highest : lowest;
    lanes &= ~(1u << lane);
    wake(first + lane);
  }
}

void ReadyQueue::wake(std::uint32_t thread) {
  switch (policy_) {
    case Policy::kInOrder:
    case Policy::kReverse:
      push_front(thread);
      break;
    case Policy::kRandom:
      bag_.push_back(thread);
      break;
    case Policy::kSprint:
      if (random_->below(kStraying) == 0) priorities_[thread] = random_->next();
      push_by_priority(thread);
      break;
  }
}

void ReadyQueue::yield(std::uint32_t thread) {
  switch (policy_) {
    case Policy::kInOrder:
    case Policy::kReverse:
      push_back(thread);
      break;
    case Policy::kRandom:
      bag_.push_back(thread);
      break;
    case Policy::kSprint:
      priorities_[thread] = random_->next();
      push_by_priority(thread);
      break;
  }
}

void ReadyQueue::push_by_priority(std::uint32_t thread) {
  heap_.push_back(std::uint64_t{priorities_[thread]} << 32 | thread);
  std::push_heap(heap_.begin(), heap_.end());
}

std::uint32_t ReadyQueue::pop() {
  switch (policy_) {
    case Policy::kInOrder:
    case Policy::kReverse:
      if (front_ == back_) return kNone;
      return ring_[front_++ & ring_mask_];
    case Policy::kRandom: {
      if (bag_.empty()) return kNone;
      std::uint32_t& chosen = bag_[random_->below(static_cast<std::uint32_t>(bag_.size()))];
      const std::uint32_t thread = chosen;
      chosen = bag_.back();
      bag_.pop_back();
      return thread;
    }
    case Policy::kSprint: {
      if (heap_.empty()) return kNone;
      std::pop_heap(heap_.begin(), heap_.end());
      const std::uint32_t thread = static_cast<std::uint32_t>(heap_.back());
      heap_.pop_back();
      return thread;
    }
  }
  return kNone;
}

}  // namespace simt
