// Runs a launch: which blocks are resident, which thread runs, and what each call from a kernel
// does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "engine.h"
#include "engine/block.h"
#include "engine/fiber.h"
#include "engine/random.h"
#include "engine/ready_queue.h"
#include "engine/stack_arena.h"
#include "error.h"

#pragma GCC visibility push(hidden)

namespace simt {

struct Configuration {
  Policy policy = Policy::kInOrder;
  std::uint64_t seed = 1;
  unsigned resident_blocks = 4;  // at once; 0: as many as there are stacks for
};

struct Statistics {
  std::uint64_t launches = 0;
  std::uint64_t blocks = 0;
  std::uint64_t switches = 0;  // from one thread to another
  std::uint64_t barriers = 0;  // complete ones
  std::uint64_t warp_operations = 0;
  std::uint64_t atomics = 0;
  std::uint64_t shared_bytes = 0;  // the most that any block had
};

class Scheduler {
 public:
  static Scheduler& instance() { return instance_; }

  // For any thread of the process; a launch is waited for.
  void configure(const Configuration& configuration);
  Statistics statistics();
  void reset_statistics();
  void launch(dim3 grid, dim3 block, std::size_t dynamic_shared_bytes, KernelCall kernel);

  // For the running thread of a kernel: what engine.h promises.
  int barrier(BarrierKind kind, bool predicate, SourceLine where);
  std::uint64_t collective(WarpOperation operation, unsigned mask, std::uint64_t value,
                           unsigned source, SourceLine where);
  void* shared_array(const void* key, std::size_t bytes, const char* name);
  void* shared_dynamic();
  void fence();
  void before_atomic(void* address);
  void after_atomic(void* address);
  void yield();
  [[noreturn]] void fail(const std::string& message, SourceLine where);

  // Null between launches, and on the host's own stack.
  const Thread* running() const { return running_; }

 private:
  void set_up(dim3 grid, dim3 block, std::size_t dynamic_shared_bytes);
  void shuffle_blocks();
  std::uint32_t next_block();
  void start_block(Block& block);
  void finish_block(const Block& block);
  void run_blocks();
  void abandon_threads();

  static void thread_entry();
  [[noreturn]] void run_thread();

  Thread& current();  // the running thread; throws if there is none

  // Lets another thread run. The running one goes on when it is its turn again.
  void suspend();
  [[noreturn]] void retire();
  void leave(Thread& from, bool from_is_done);
  void enter(Thread& to);

  void count_operation();
  void maybe_yield();
  Error error_at(const Thread& thread, const std::string& message, SourceLine where) const;
  Error deadlock() const;

  static Scheduler instance_;

  std::mutex mutex_;  // held for the whole of a launch
  Configuration configuration_;
  Statistics statistics_;
  std::uint64_t launches_since_configured_ = 0;

  KernelCall kernel_{};
  std::uint32_t grid_size_ = 0;
  std::uint32_t started_ = 0;  // blocks
  std::vector<std::uint32_t> block_order_;

  StackArena stacks_;
  std::vector<Thread> threads_;
  std::vector<Block> blocks_;
  ReadyQueue ready_;
  Random random_;

  Fiber host_;
  Thread* running_ = nullptr;
  Block* finished_ = nullptr;     // told to the host by the last thread of the block
  std::optional<Error> failure_;  // told to the host by the thread that failed
  std::uint64_t spins_ = 0;       // atomics and fences since the running thread was entered
  std::uint64_t operations_ = 0;  // since a thread last finished
  std::uint64_t operation_limit_ = 0;
  HappensBefore start_of_kernel_, end_of_kernel_;
};

}  // namespace simt

#pragma GCC visibility pop
