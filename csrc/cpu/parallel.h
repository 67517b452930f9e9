// Runs the chunks of a plan on the caller's thread pool.
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

// Calls visit(const Chunk&) for every chunk, each once, on some thread. Threads take tasks as they
// come free, so a thread that the system holds up delays only its own task.
template <class Visit>
void for_each_chunk(const Executor& executor, const WorkPlan& plan, Visit visit) {
  const int64_t cost = plan.cost();
  const int64_t threads = cost <= kSerialCost ? 1 : executor.threads();
  if (threads <= 1) {
    plan.each_chunk(0, cost, visit);
    return;
  }
  struct Shared {
    const WorkPlan& plan;
    const Visit& visit;
    int64_t cost, tasks;
    std::atomic<int64_t> next;
  };
  const int64_t task_cost = std::clamp(cost / (threads * 16), kSerialCost, kLargestTask);
  const int64_t tasks = (cost + task_cost - 1) / task_cost;
  Shared shared{plan, visit, cost, tasks, {0}};
  const auto work = [](void* context, int64_t) {
    Shared& s = *static_cast<Shared*>(context);
    for (int64_t i; (i = s.next.fetch_add(1, std::memory_order_relaxed)) < s.tasks;) {
      // 128 bits: cost times tasks may pass 2^63 for the largest tensors.
      const auto bound = [&](int64_t task) {
        return static_cast<int64_t>(static_cast<__int128>(s.cost) * task / s.tasks);
      };
      s.plan.each_chunk(bound(i), bound(i + 1), s.visit);
    }
  };
  executor.run(std::min(threads, tasks), work, &shared);
}

}  // namespace gradkern::cpu
