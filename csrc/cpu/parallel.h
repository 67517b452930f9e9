// Runs work, whole or by the chunks of a plan, on the caller's thread pool.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "backend.h"
#include "cpu/work_plan.h"

namespace gradkern::cpu {

// Below this cost (in elements) waking a second thread costs more than it brings.
inline constexpr int64_t kSerialCost = 32768;

// A megabyte of float32: at the end of a large list no thread waits long for the other's last task.
inline constexpr int64_t kLargestTask = 262144;

// Calls visit(begin, end) for consecutive parts of [0, cost), which together are all of it, on the
// pool's threads. Threads take parts as they come free, so a thread that the system holds up delays
// only its own part.
template <class Visit>
void for_each_part(const Executor& executor, int64_t cost, Visit visit) {
  const int64_t threads = cost <= kSerialCost ? 1 : executor.threads();
  if (threads <= 1) {
    visit(int64_t(0), cost);
    return;
  }
  struct Shared {
    const Visit& visit;
    int64_t cost, tasks;
    std::atomic<int64_t> next;
  };
  const int64_t task_cost = std::clamp(cost / (threads * 16), kSerialCost, kLargestTask);
  const int64_t tasks = (cost + task_cost - 1) / task_cost;
  Shared shared{visit, cost, tasks, {0}};
  const auto work = [](void* context, int64_t) {
    Shared& s = *static_cast<Shared*>(context);
    for (int64_t i; (i = s.next.fetch_add(1, std::memory_order_relaxed)) < s.tasks;) {
      // 128 bits: cost times tasks may pass 2^63 for the largest tensors.
      const auto bound = [&](int64_t task) {
        return static_cast<int64_t>(static_cast<__int128>(s.cost) * task / s.tasks);
      };
      s.visit(bound(i), bound(i + 1));
    }
  };
  executor.run(std::min(threads, tasks), work, &shared);
}

// Calls visit(const Chunk&) for every chunk, each once, on some thread.
template <class Visit>
void for_each_chunk(const Executor& executor, const WorkPlan& plan, Visit visit) {
  for_each_part(executor, plan.cost(),
                [&](int64_t begin, int64_t end) { plan.each_chunk(begin, end, visit); });
}

}  // namespace gradkern::cpu
