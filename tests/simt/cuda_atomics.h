// Atomic read-modify-write operations, for the types for which CUDA has them. As in CUDA they are
// relaxed: only a fence orders anything else.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "engine.h"

namespace simt {

// T, if it is one of those for which the operation exists.
template <class T, class... Supported>
using OneOf = std::enable_if_t<(std::is_same_v<T, Supported> || ...), T>;

// T, where it must not be deduced: the operand converts to the type of the memory.
template <class T>
using Operand = std::common_type_t<T>;

template <std::size_t bytes>
using BitsOf =
    std::conditional_t<bytes == 8, std::uint64_t,
                       std::conditional_t<bytes == 4, std::uint32_t,
                                          std::conditional_t<bytes == 2, std::uint16_t, void>>>;

// *address = update(*address); returns what was there. A loop of real compare-and-swaps, because
// ThreadSanitizer must see an atomic access.
template <class T, class Update>
T atomic_update(T* address, Update update) {
  using Bits = BitsOf<sizeof(T)>;
  before_atomic(address);
  auto* const word = reinterpret_cast<Bits*>(address);
  Bits before = __atomic_load_n(word, __ATOMIC_RELAXED);
  Bits after;
  T old;
  do {
    std::memcpy(&old, &before, sizeof(T));
    const T updated = update(old);
    std::memcpy(&after, &updated, sizeof(T));
  } while (!__atomic_compare_exchange_n(word, &before, after, false, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED));
  after_atomic(address);
  return old;
}

// Integers wrap around on a GPU; in C++ only unsigned ones do.
template <class T>
T wrapping_sum(T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    using Unsigned = std::make_unsigned_t<T>;
    return static_cast<T>(static_cast<Unsigned>(a) + static_cast<Unsigned>(b));
  } else {
    return a + b;
  }
}

}  // namespace simt

template <class T>
simt::OneOf<T, int, unsigned, unsigned long long, float, double> atomicAdd(T* address,
                                                                           simt::Operand<T> value) {
  return simt::atomic_update(address, [=](T old) { return simt::wrapping_sum(old, value); });
}
template <class T>
simt::OneOf<T, int, unsigned> atomicSub(T* address, simt::Operand<T> value) {
  const T negated = static_cast<T>(0u - static_cast<unsigned>(value));
  return simt::atomic_update(address, [=](T old) { return simt::wrapping_sum(old, negated); });
}
template <class T>
simt::OneOf<T, int, unsigned, unsigned long long, float> atomicExch(T* address,
                                                                    simt::Operand<T> value) {
  return simt::atomic_update(address, [=](T) { return value; });
}
template <class T>
simt::OneOf<T, int, unsigned, unsigned long long, unsigned short> atomicCAS(
    T* address, simt::Operand<T> expected, simt::Operand<T> value) {
  return simt::atomic_update(address, [=](T old) { return old == expected ? value : old; });
}
template <class T>
simt::OneOf<T, int, unsigned, long long, unsigned long long> atomicMin(T* address,
                                                                       simt::Operand<T> value) {
  return simt::atomic_update(address, [=](T old) { return value < old ? value : old; });
}
template <class T>
simt::OneOf<T, int, unsigned, long long, unsigned long long> atomicMax(T* address,
                                                                       simt::Operand<T> value) {
  return simt::atomic_update(address, [=](T old) { return old < value ? value : old; });
}
template <class T>
simt::OneOf<T, int, unsigned, unsigned long long> atomicAnd(T* address, simt::Operand<T> value) {
  return simt::atomic_update(address, [=](T old) { return old & value; });
}
template <class T>
simt::OneOf<T, int, unsigned, unsigned long long> atomicOr(T* address, simt::Operand<T> value) {
  return simt::atomic_update(address, [=](T old) { return old | value; });
}
template <class T>
simt::OneOf<T, int, unsigned, unsigned long long> atomicXor(T* address, simt::Operand<T> value) {
  return simt::atomic_update(address, [=](T old) { return old ^ value; });
}
// Counts up to `last` and around to 0; counts down from `last` to 0 and around.
inline unsigned atomicInc(unsigned* address, unsigned last) {
  return simt::atomic_update(address, [=](unsigned old) { return old >= last ? 0u : old + 1; });
}
inline unsigned atomicDec(unsigned* address, unsigned last) {
  return simt::atomic_update(address,
                             [=](unsigned old) { return old == 0 || old > last ? last : old - 1; });
}
