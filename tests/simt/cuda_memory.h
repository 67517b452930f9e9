// Loads and stores with a cache hint. On the CPU the hint means nothing, but two mistakes still
// show: an address that is not aligned to the type, which a GPU answers with an error and x86 with
// a slower load, and an address out of bounds.
#pragma once

#include <cstdint>
#include <type_traits>

#include "engine.h"

namespace simt {

template <class T>
void check_alignment(const T* address, const char* access, SourceLine where) {
  static_assert(std::is_trivially_copyable_v<T>);
  if (reinterpret_cast<std::uintptr_t>(address) % alignof(T) != 0) {
    fail(where, "misaligned %s: address %p of an object of %zu bytes, must be a multiple of %zu",
         access, static_cast<const void*>(address), sizeof(T), alignof(T));
  }
}

template <class T>
T checked_load(const T* address, SourceLine where) {
  check_alignment(address, "load", where);
  return *address;
}

// The value's type must not be deduced from the argument: CUDA converts it to the pointer's.
template <class T>
void checked_store(T* address, const std::common_type_t<T>& value, SourceLine where) {
  check_alignment(address, "store", where);
  *address = value;
}

}  // namespace simt

// Cached for ever (read-only data), in L2 only, streaming, last use, not at all.
template <class T>
T __ldg(const T* address, simt::SourceLine where = simt::SourceLine::current()) {
  return simt::checked_load(address, where);
}
template <class T>
T __ldca(const T* address, simt::SourceLine where = simt::SourceLine::current()) {
  return simt::checked_load(address, where);
}
template <class T>
T __ldcg(const T* address, simt::SourceLine where = simt::SourceLine::current()) {
  return simt::checked_load(address, where);
}
template <class T>
T __ldcs(const T* address, simt::SourceLine where = simt::SourceLine::current()) {
  return simt::checked_load(address, where);
}
template <class T>
T __ldlu(const T* address, simt::SourceLine where = simt::SourceLine::current()) {
  return simt::checked_load(address, where);
}
template <class T>
T __ldcv(const T* address, simt::SourceLine where = simt::SourceLine::current()) {
  return simt::checked_load(address, where);
}

// Write-back, in L2 only, streaming, write-through.
template <class T>
void __stwb(T* address, std::common_type_t<T> value,
            simt::SourceLine where = simt::SourceLine::current()) {
  simt::checked_store(address, value, where);
}
template <class T>
void __stcg(T* address, std::common_type_t<T> value,
            simt::SourceLine where = simt::SourceLine::current()) {
  simt::checked_store(address, value, where);
}
template <class T>
void __stcs(T* address, std::common_type_t<T> value,
            simt::SourceLine where = simt::SourceLine::current()) {
  simt::checked_store(address, value, where);
}
template <class T>
void __stwt(T* address, std::common_type_t<T> value,
            simt::SourceLine where = simt::SourceLine::current()) {
  simt::checked_store(address, value, where);
}
