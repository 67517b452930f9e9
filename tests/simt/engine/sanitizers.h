// What ThreadSanitizer (-DSIMT_TSAN) and AddressSanitizer (-DSIMT_ASAN) are told about fibers.
//
// The engine's files are never compiled with -fsanitize=thread themselves: their own data, which
// all fibers share, would look like races. In a plain build everything here is empty.
#pragma once

#include <cstddef>

extern "C" {
#ifdef SIMT_TSAN
void* __tsan_get_current_fiber(void);
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* object);
void __tsan_release(void* object);
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
#endif
#ifdef SIMT_ASAN
void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, std::size_t size);
void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom, std::size_t* size);
void __asan_unpoison_memory_region(const volatile void* address, std::size_t size);
#endif
}

namespace simt {

#if defined(SIMT_TSAN) || defined(SIMT_ASAN)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

#ifdef SIMT_TSAN
// For __tsan_switch_to_fiber: the switch orders nothing, for a GPU's threads know of no switches.
inline constexpr unsigned kUnordered = 1;
#endif

// An object through which one thread's accesses are ordered before another's: those before
// `release` before those after `acquire`. TSan knows it by its address.
class HappensBefore {
 public:
#ifdef SIMT_TSAN
  void release() { __tsan_release(this); }
  void acquire() { __tsan_acquire(this); }
#else
  void release() {}
  void acquire() {}
#endif

 private:
  [[maybe_unused]] char address_[8];
};

// Accesses in its scope are the engine's, not the kernel's (TSan sees those in libc whoever calls
// it).
class EngineAccesses {
 public:
#ifdef SIMT_TSAN
  EngineAccesses() { AnnotateIgnoreReadsBegin(__FILE__, __LINE__); }
  ~EngineAccesses() { AnnotateIgnoreReadsEnd(__FILE__, __LINE__); }
#else
  EngineAccesses() {}
  ~EngineAccesses() {}
#endif
  EngineAccesses(const EngineAccesses&) = delete;
  EngineAccesses& operator=(const EngineAccesses&) = delete;
};

}  // namespace simt
