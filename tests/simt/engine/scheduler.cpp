#include "engine/scheduler.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "engine/file_name.h"
#include "engine/launch_limits.h"
#include "engine/memory_faults.h"

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace simt {

unsigned lane_index;

namespace {

// Each stack and its guard are two mappings, of which Linux allows a process 65,530.
constexpr std::size_t kMaxResidentThreads = 16384;

// After so many barriers, warp operations, atomics and fences for each resident thread, in which
// not one of them has finished, they are taken to wait for something that never comes.
constexpr std::uint64_t kOperationsPerThread = 1 << 16;
constexpr std::uint64_t kMinOperationLimit = 1 << 22;

// How often an atomic or a fence lets others run. The random policies do so to interleave threads
// there; the ordered ones only so that a thread that spins on a flag ends.
constexpr std::uint32_t kYieldOneIn = 4;
constexpr std::uint64_t kSpinsBeforeYield = 1024;

thread_local bool inside_launch = false;

std::string to_string(uint3 index) {
  return "(" + std::to_string(index.x) + "," + std::to_string(index.y) + "," +
         std::to_string(index.z) + ")";
}

uint3 unravel(std::uint32_t linear, dim3 extent) {
  return uint3{linear % extent.x, linear / extent.x % extent.y, linear / extent.x / extent.y};
}

bool is_ordered(Policy policy) { return policy == Policy::kInOrder || policy == Policy::kReverse; }

}  // namespace

Scheduler Scheduler::instance_;

void Scheduler::configure(const Configuration& configuration) {
  const std::lock_guard<std::mutex> lock(mutex_);
  configuration_ = configuration;
  launches_since_configured_ = 0;
}

Statistics Scheduler::statistics() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return statistics_;
}

void Scheduler::reset_statistics() {
  const std::lock_guard<std::mutex> lock(mutex_);
  statistics_ = Statistics{};
}

void Scheduler::launch(dim3 grid, dim3 block, std::size_t dynamic_shared_bytes, KernelCall kernel) {
  if (inside_launch) fail("a launch from within a kernel", {});
  check_launch(grid, block, dynamic_shared_bytes);

  const std::lock_guard<std::mutex> lock(mutex_);
  kernel_ = kernel;
  set_up(grid, block, dynamic_shared_bytes);

  // Whatever ends the launch, the next one finds no trace of it.
  struct Scope {
    Scheduler& scheduler;
    MemoryFaultTrap trap;
    explicit Scope(Scheduler& s) : scheduler(s) { inside_launch = true; }
    ~Scope() {
      inside_launch = false;
      scheduler.end_of_kernel_.acquire();
    }
  };
  const Scope scope(*this);
  try {
    run_blocks();
  } catch (...) {
    abandon_threads();
    throw;
  }
}

void Scheduler::set_up(dim3 grid, dim3 block, std::size_t dynamic_shared_bytes) {
  const EngineAccesses ignored;
  const std::uint64_t grid_size = std::uint64_t{grid.x} * grid.y * grid.z;
  if (grid_size >= ReadyQueue::kNone) throw Error("the grid has too many blocks to be emulated");
  const unsigned threads = block.x * block.y * block.z;
  std::uint64_t resident = std::min<std::uint64_t>(grid_size, kMaxResidentThreads / threads);
  if (configuration_.resident_blocks != 0) {
    resident = std::min<std::uint64_t>(resident, configuration_.resident_blocks);
  }

  ++statistics_.launches;
  gridDim = grid;
  blockDim = block;
  grid_size_ = static_cast<std::uint32_t>(grid_size);
  started_ = 0;
  failure_.reset();
  operations_ = 0;
  operation_limit_ = std::max(kMinOperationLimit, resident * threads * kOperationsPerThread);

  // Several launches under one seed differ from each other, and as a sequence can be repeated.
  random_ = Random(configuration_.seed + 0x100000001b3u * launches_since_configured_++);
  shuffle_blocks();
  stacks_.reserve(resident * threads);
  ready_.reset(configuration_.policy, resident * threads, &random_);
  host_.adopt_current_stack();

  if (threads_.size() < resident * threads) threads_.resize(resident * threads);
  blocks_.resize(resident);
  for (std::uint32_t slot = 0; slot < resident; ++slot) {
    Block& b = blocks_[slot];
    b.first = slot * threads;
    b.size = threads;
    b.shared.start_launch(dynamic_shared_bytes);
    b.warps.resize((threads + warpSize - 1) / warpSize);
    for (unsigned i = 0; i < threads; ++i) {
      Thread& thread = threads_[b.first + i];
      thread.block = &b;
      thread.warp = &b.warps[i / warpSize];
      thread.index = unravel(i, block);
      thread.number = b.first + i;
      thread.linear = i;
      thread.lane = i % warpSize;
    }
  }
  start_of_kernel_.release();
}

void Scheduler::shuffle_blocks() {
  block_order_.clear();
  if (is_ordered(configuration_.policy)) return;
  block_order_.resize(grid_size_);
  for (std::uint32_t i = 0; i < grid_size_; ++i) {
    const std::uint32_t j = random_.below(i + 1);
    block_order_[i] = block_order_[j];
    block_order_[j] = i;
  }
}

std::uint32_t Scheduler::next_block() {
  const std::uint32_t i = started_++;
  switch (configuration_.policy) {
    case Policy::kInOrder:
      return i;
    case Policy::kReverse:
      return grid_size_ - 1 - i;
    case Policy::kRandom:
    case Policy::kSprint:
      return block_order_[i];
  }
  return i;
}

void Scheduler::start_block(Block& block) {
  const EngineAccesses ignored;
  ++statistics_.blocks;
  block.index = unravel(next_block(), gridDim);
  block.alive = block.size;
  block.barrier.restart();
  block.shared.start_block();
  for (unsigned i = 0; i < block.warps.size(); ++i) {
    const unsigned lanes = std::min<unsigned>(warpSize, block.size - i * warpSize);
    block.warps[i].restart(lanes == 32 ? ~0u : (1u << lanes) - 1);
  }
  for (unsigned i = 0; i < block.size; ++i) {
    Thread& thread = threads_[block.first + i];
    thread.state = ThreadState::kReady;
    thread.fences.restart();
    thread.fiber.restart(stacks_[thread.number], &thread_entry);
  }
  ready_.start(block.first, block.size);
}

void Scheduler::finish_block(const Block& block) {
  statistics_.shared_bytes =
      std::max<std::uint64_t>(statistics_.shared_bytes, block.shared.bytes());
  if (const char* const name = block.shared.overrun()) {
    throw Error("block " + to_string(block.index) + " wrote beyond the end of " + name, block.index,
                Error::kNowhere, {});
  }
}

void Scheduler::run_blocks() {
  for (Block& block : blocks_) start_block(block);
  std::size_t unfinished = blocks_.size();
  while (unfinished != 0) {
    const std::uint32_t next = ready_.pop();
    if (next == ReadyQueue::kNone) throw deadlock();
    Thread& thread = threads_[next];
    enter(thread);
    Fiber::switch_stacks(host_, thread.fiber);
    running_ = nullptr;

    // A thread is back: it failed, it was the last of its block, or none can run.
    if (failure_) throw Error(*failure_);
    if (Block* const block = std::exchange(finished_, nullptr)) {
      finish_block(*block);
      if (started_ < grid_size_) {
        start_block(*block);
      } else {
        --unfinished;
      }
    }
  }
}

void Scheduler::abandon_threads() {
  for (Block& block : blocks_) {
    for (unsigned i = 0; i < block.size; ++i) {
      Thread& thread = threads_[block.first + i];
      if (thread.state != ThreadState::kDone) thread.fiber.abandon(host_, end_of_kernel_);
    }
  }
}

void Scheduler::thread_entry() { instance().run_thread(); }

void Scheduler::run_thread() {
  Fiber::entered(host_);
  start_of_kernel_.acquire();
  std::optional<std::string> thrown;
  try {
    kernel_.call(kernel_.kernel);
  } catch (const std::exception& error) {
    thrown = error.what();
  } catch (...) {
    thrown = "of an unknown type";
  }
  // Only behind the handler: a stack that is left inside one stays an exception's owner for ever.
  if (thrown) fail("the kernel threw an exception: " + *thrown, {});
  retire();
}

void Scheduler::retire() {
  Thread& thread = *running_;
  Block& block = *thread.block;
  if (block.barrier.waiting() != 0) {
    fail("exits while " + std::to_string(block.barrier.waiting()) +
             " threads of its block wait at __syncthreads()",
         block.barrier.where());
  }
  thread.warp->exit(thread.lane);
  thread.state = ThreadState::kDone;
  end_of_kernel_.release();
  operations_ = 0;
  if (--block.alive == 0) finished_ = &block;
  leave(thread, true);
  __builtin_unreachable();
}

void Scheduler::suspend() {
  leave(*running_, false);
  running_->state = ThreadState::kReady;
}

void Scheduler::leave(Thread& from, bool from_is_done) {
  const std::uint32_t next = finished_ != nullptr ? ReadyQueue::kNone : ready_.pop();
  if (next == from.number) {
    spins_ = 0;
    return;
  }
  if (next == ReadyQueue::kNone) {
    Fiber::switch_stacks(from.fiber, host_, from_is_done);
  } else {
    Thread& to = threads_[next];
    enter(to);
    Fiber::switch_stacks(from.fiber, to.fiber, from_is_done);
  }
}

void Scheduler::enter(Thread& to) {
  ++statistics_.switches;
  spins_ = 0;
  running_ = &to;
  threadIdx = to.index;
  blockIdx = to.block->index;
  lane_index = to.lane;
}

Thread& Scheduler::current() {
  if (running_ == nullptr) fail("only a kernel's threads can do this", {});
  return *running_;
}

int Scheduler::barrier(BarrierKind kind, bool predicate, SourceLine where) {
  Thread& thread = current();
  Block& block = *thread.block;
  count_operation();
  if (block.alive != block.size) {
    fail("__syncthreads() after " + std::to_string(block.size - block.alive) +
             " threads of the block have exited",
         where);
  }
  HappensBefore& order = block.barrier.order();
  order.release();
  thread.state = ThreadState::kAtBarrier;
  thread.waits_at = where;
  if (block.barrier.arrive(kind, predicate, block.size, where)) {
    ++statistics_.barriers;
    ready_.wake_all(block.first, block.size);
  }
  suspend();
  order.acquire();
  return block.barrier.result();
}

std::uint64_t Scheduler::collective(WarpOperation operation, unsigned mask, std::uint64_t value,
                                    unsigned source, SourceLine where) {
  Thread& thread = current();
  Warp& warp = *thread.warp;
  count_operation();
  ++statistics_.warp_operations;
  // Of the collectives only __syncwarp orders memory.
  HappensBefore* const order = operation == WarpOperation::kSync ? &warp.order() : nullptr;
  if (order != nullptr) order->release();
  thread.state = ThreadState::kAtWarpOperation;
  thread.waits_at = where;
  const std::uint32_t complete = warp.arrive(operation, mask, thread.lane, value, source, where);
  if (complete != 0) ready_.wake_lanes(thread.number - thread.lane, complete);
  suspend();
  if (order != nullptr) order->acquire();
  return warp.result(thread.lane);
}

void* Scheduler::shared_array(const void* key, std::size_t bytes, const char* name) {
  SharedMemory& shared = current().block->shared;
  void* const array = shared.array(key, bytes, name);
  if (shared.bytes() > kSharedMemoryLimit) {
    fail("with " + std::string(name) + " the block's shared memory is " +
             std::to_string(shared.bytes()) + " bytes, must be at most " +
             std::to_string(kSharedMemoryLimit),
         {});
  }
  return array;
}

void* Scheduler::shared_dynamic() { return current().block->shared.dynamic(); }

void Scheduler::fence() {
  current().fences.fence();
  maybe_yield();
}

void Scheduler::before_atomic(void* address) {
  Thread& thread = current();
  ++statistics_.atomics;
  maybe_yield();
  thread.fences.before_atomic(address, host_);
}

void Scheduler::after_atomic(void* address) {
  running_->fences.after_atomic(address, host_);
  maybe_yield();
}

void Scheduler::maybe_yield() {
  const bool now = is_ordered(configuration_.policy) ? ++spins_ == kSpinsBeforeYield
                                                     : random_.below(kYieldOneIn) == 0;
  if (now) {
    yield();
  } else {
    count_operation();
  }
}

void Scheduler::yield() {
  count_operation();
  ready_.yield(current().number);
  suspend();
}

void Scheduler::count_operation() {
  if (++operations_ > operation_limit_) {
    fail("livelock: no thread has finished within " + std::to_string(operation_limit_) +
             " barriers, warp operations, atomics and fences",
         {});
  }
}

void Scheduler::fail(const std::string& message, SourceLine where) {
  if (running_ == nullptr) throw Error("outside of a kernel: " + message);
  {
    const EngineAccesses ignored;
    failure_ = error_at(*running_, message, where);
  }
  Fiber::switch_stacks(running_->fiber, host_, true);
  __builtin_unreachable();
}

Error Scheduler::error_at(const Thread& thread, const std::string& message,
                          SourceLine where) const {
  std::string place;
  if (where.file != nullptr) {
    place = std::string(file_name(where)) + ":" + std::to_string(where.line) + ": ";
  }
  return Error(place + "block " + to_string(thread.block->index) + ", thread " +
                   to_string(thread.index) + ": " + message,
               thread.block->index, static_cast<int>(thread.linear), where);
}

Error Scheduler::deadlock() const {
  const Thread* first = nullptr;
  unsigned at_barrier = 0, at_warp_operation = 0;
  std::string places;
  const auto waits = [&](const Thread& thread, unsigned& count) {
    if (first == nullptr) first = &thread;
    if (count++ == 0) {
      places += std::string(places.empty() ? "" : ", ") + file_name(thread.waits_at) + ":" +
                std::to_string(thread.waits_at.line);
    }
  };
  for (const Block& block : blocks_) {
    for (unsigned i = 0; i < block.size; ++i) {
      const Thread& thread = threads_[block.first + i];
      if (thread.state == ThreadState::kAtBarrier) waits(thread, at_barrier);
      if (thread.state == ThreadState::kAtWarpOperation) waits(thread, at_warp_operation);
    }
  }
  return error_at(*first,
                  "deadlock: no thread can run; " + std::to_string(at_barrier) +
                      " wait at __syncthreads(), " + std::to_string(at_warp_operation) +
                      " at a warp operation (" + places + ")",
                  first->waits_at);
}

}  // namespace simt
