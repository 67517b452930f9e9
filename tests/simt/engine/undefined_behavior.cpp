// What the compiler calls where a kernel, compiled with -fsanitize=alignment,bounds,shift-exponent,
// integer-divide-by-zero, does what those forbid.
//
// These are the entry points of GCC's and clang's UBSan runtime, answered by the engine in its
// place: a misaligned 128-bit load, which x86 forgives and a GPU does not, ends the launch with an
// Error that names the thread, and nothing needs to be linked. The layouts are the runtime's
// (ubsan_handlers.h).
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "engine.h"
#include "engine/scheduler.h"

#if !defined(SIMT_ASAN) && !defined(SIMT_TSAN)  // they come with the real runtime

namespace {

struct Location {
  const char* file;
  std::uint32_t line;
  std::uint32_t column;

  operator simt::SourceLine() const { return {file, static_cast<int>(line)}; }
};

struct TypeDescriptor {
  std::uint16_t kind;  // 0: an integer, whose signedness is bit 0 of info
  std::uint16_t info;
  char name[1];
};

struct TypeMismatch {
  Location location;
  const TypeDescriptor* type;
  std::uint8_t log_alignment;
  std::uint8_t access;
};

struct AlignmentAssumption {
  Location location;
  Location assumed_at;
  const TypeDescriptor* type;
};

struct OutOfBounds {
  Location location;
  const TypeDescriptor* array_type;
  const TypeDescriptor* index_type;
};

struct ShiftOutOfBounds {
  Location location;
  const TypeDescriptor* left_type;
  const TypeDescriptor* right_type;
};

struct Overflow {
  Location location;
  const TypeDescriptor* type;
};

// The planning code around kernels is compiled likewise, and there an exception could not pass:
// these functions are declared not to throw.
void require_kernel(const Location& location, const char* what) {
  if (simt::Scheduler::instance().running() != nullptr) return;
  std::fprintf(stderr, "%s:%u: %s outside of a kernel\n", location.file, location.line, what);
  std::abort();
}

}  // namespace

extern "C" {

__attribute__((visibility("hidden"))) void __ubsan_handle_type_mismatch_v1(const TypeMismatch* data,
                                                                           std::uintptr_t address) {
  require_kernel(data->location, "misaligned access");
  simt::fail(data->location, "misaligned access to %s at %#zx, must be a multiple of %d",
             data->type->name, static_cast<std::size_t>(address), 1 << data->log_alignment);
}

// clang's, for __builtin_assume_aligned.
__attribute__((visibility("hidden"))) void __ubsan_handle_alignment_assumption(
    const AlignmentAssumption* data, std::uintptr_t address, std::uintptr_t alignment,
    std::uintptr_t) {
  require_kernel(data->location, "misaligned address");
  simt::fail(data->location, "misaligned address %#zx of %s, assumed to be a multiple of %zu",
             static_cast<std::size_t>(address), data->type->name,
             static_cast<std::size_t>(alignment));
}

__attribute__((visibility("hidden"))) void __ubsan_handle_out_of_bounds(const OutOfBounds* data,
                                                                        std::uintptr_t index) {
  require_kernel(data->location, "index out of bounds");
  simt::fail(data->location, "index %lld out of bounds of %s", static_cast<long long>(index),
             data->array_type->name);
}

__attribute__((visibility("hidden"))) void __ubsan_handle_shift_out_of_bounds(
    const ShiftOutOfBounds* data, std::uintptr_t, std::uintptr_t distance) {
  require_kernel(data->location, "shift out of range");
  simt::fail(data->location, "shift of %s by %lld", data->left_type->name,
             static_cast<long long>(distance));
}

__attribute__((visibility("hidden"))) void __ubsan_handle_divrem_overflow(const Overflow* data,
                                                                          std::uintptr_t,
                                                                          std::uintptr_t divisor) {
  require_kernel(data->location, "integer division");
  simt::fail(data->location, "division of %s by %lld", data->type->name,
             static_cast<long long>(divisor));
}
}

#endif
