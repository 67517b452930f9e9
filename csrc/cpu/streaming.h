// Stores that go past the caches.
//
// Compiled once per instruction set, like pack.h.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if !defined(__aarch64__)
#include <immintrin.h>
#endif

#ifndef GRADKERN_ISA
#error "define GRADKERN_ISA: the namespace of this instruction set's build"
#endif

namespace gradkern::cpu::GRADKERN_ISA {

inline constexpr size_t kCacheLine = 64;

// Copies; whole cache lines of `to` past the caches. `finish_streaming` comes last.
inline void stream_bytes(void* to, const void* from, size_t bytes) {
  char* target = static_cast<char*>(to);
  const char* source = static_cast<const char*>(from);
  const size_t head =
      std::min(bytes, static_cast<size_t>(-reinterpret_cast<uintptr_t>(to) % kCacheLine));
  size_t i = head;
  if (head > 0) std::memcpy(target, source, head);
#if defined(__AVX512F__)
  for (; i + kCacheLine <= bytes; i += kCacheLine) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(target + i), _mm512_loadu_si512(source + i));
  }
#elif defined(__SSE2__)
  for (; i + kCacheLine <= bytes; i += kCacheLine) {
    for (size_t k = 0; k < kCacheLine; k += sizeof(__m128i)) {
      _mm_stream_si128(reinterpret_cast<__m128i*>(target + i + k),
                       _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + i + k)));
    }
  }
#endif
  if (i < bytes) std::memcpy(target + i, source + i, bytes - i);
}

// Makes what was streamed visible to the other threads.
inline void finish_streaming() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

}  // namespace gradkern::cpu::GRADKERN_ISA
