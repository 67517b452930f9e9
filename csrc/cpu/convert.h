// Between tensor storage and packs: the only place that names an instruction set's intrinsics.
//
// Compiled once per instruction set, like pack.h.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "cpu/pack.h"
#include "cpu/storage.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#else
#include <immintrin.h>
#endif

namespace gradkern::cpu::GRADKERN_ISA {

using FloatBatch = Pack<float>::Batch;
using DoubleBatch = Pack<double>::Batch;

// ---- one register ----------------------------------------------------------------------------

#if defined(__AVX512F__)

GRADKERN_INLINE DoubleBatch widen(const float* from) {
  return _mm512_cvtps_pd(_mm256_loadu_ps(from));
}
GRADKERN_INLINE DoubleBatch widen_low(FloatBatch x) {
  return _mm512_cvtps_pd(_mm512_castps512_ps256(x));
}
GRADKERN_INLINE DoubleBatch widen_high(FloatBatch x) {
  return _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1));
}
GRADKERN_INLINE FloatBatch load_float(const BFloat16* from) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
GRADKERN_INLINE FloatBatch load_float(const Float16* from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}
GRADKERN_INLINE void store_upper_halves(__m512i bits, BFloat16* to) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                      _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16)));
}
GRADKERN_INLINE void store_float(FloatBatch x, BFloat16* to) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  store_upper_halves(_mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc00000)), to);
}
GRADKERN_INLINE void store_float(FloatBatch x, Float16* to) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                      _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}

#elif defined(__AVX2__)

GRADKERN_INLINE DoubleBatch widen(const float* from) { return _mm256_cvtps_pd(_mm_loadu_ps(from)); }
GRADKERN_INLINE DoubleBatch widen_low(FloatBatch x) {
  return _mm256_cvtps_pd(_mm256_castps256_ps128(x));
}
GRADKERN_INLINE DoubleBatch widen_high(FloatBatch x) {
  return _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1));
}
GRADKERN_INLINE FloatBatch load_float(const BFloat16* from) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
GRADKERN_INLINE FloatBatch load_float(const Float16* from) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
GRADKERN_INLINE void store_float(FloatBatch x, BFloat16* to) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i kept =
      _mm256_srli_epi32(_mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc00000), nan), 16);
  _mm_storeu_si128(
      reinterpret_cast<__m128i*>(to),
      _mm_packus_epi32(_mm256_castsi256_si128(kept), _mm256_extracti128_si256(kept, 1)));
}
GRADKERN_INLINE void store_float(FloatBatch x, Float16* to) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}

#elif defined(__SSE4_2__)

GRADKERN_INLINE DoubleBatch widen(const float* from) {
  return _mm_cvtps_pd(_mm_castsi128_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
}
GRADKERN_INLINE DoubleBatch widen_low(FloatBatch x) { return _mm_cvtps_pd(x); }
GRADKERN_INLINE DoubleBatch widen_high(FloatBatch x) { return _mm_cvtps_pd(_mm_movehl_ps(x, x)); }
GRADKERN_INLINE __m128i load_four(const void* from) {
  return _mm_loadl_epi64(static_cast<const __m128i*>(from));
}
GRADKERN_INLINE FloatBatch load_float(const BFloat16* from) {
  return _mm_castsi128_ps(_mm_slli_epi32(_mm_cvtepu16_epi32(load_four(from)), 16));
}
// Without F16C: the exponent and mantissa moved into place and multiplied by 2^112, which also
// makes subnormals right; infinities and NaN get their exponent back. (Giesen, "Float->half and
// half->float conversions", 2012.)
GRADKERN_INLINE FloatBatch load_float(const Float16* from) {
  const __m128i half = _mm_cvtepu16_epi32(load_four(from));
  const __m128i sign = _mm_slli_epi32(_mm_and_si128(half, _mm_set1_epi32(0x8000)), 16);
  const __m128i moved = _mm_slli_epi32(_mm_and_si128(half, _mm_set1_epi32(0x7fff)), 13);
  const __m128i special = _mm_cmpgt_epi32(moved, _mm_set1_epi32(0x0f7fffff));
  const __m128 scaled = _mm_mul_ps(_mm_castsi128_ps(moved), _mm_set1_ps(0x1p112f));
  const __m128i magnitude =
      _mm_or_si128(_mm_castps_si128(scaled), _mm_and_si128(special, _mm_set1_epi32(0x7f800000)));
  return _mm_castsi128_ps(_mm_or_si128(magnitude, sign));
}
GRADKERN_INLINE void store_four(__m128i bits32, void* to) {
  _mm_storel_epi64(static_cast<__m128i*>(to), _mm_packus_epi32(bits32, bits32));
}
GRADKERN_INLINE void store_float(FloatBatch x, BFloat16* to) {
  const __m128i bits = _mm_castps_si128(x);
  const __m128i odd = _mm_and_si128(_mm_srli_epi32(bits, 16), _mm_set1_epi32(1));
  const __m128i rounded = _mm_add_epi32(bits, _mm_add_epi32(odd, _mm_set1_epi32(0x7fff)));
  const __m128i nan = _mm_castps_si128(_mm_cmpunord_ps(x, x));
  store_four(_mm_srli_epi32(_mm_blendv_epi8(rounded, _mm_set1_epi32(0x7fc00000), nan), 16), to);
}
// The reverse, by letting the adder round: a magnitude below the normal range is added to 0.5,
// whose last bit is float16's smallest subnormal; a normal one is rounded to nearest even in
// integers.
GRADKERN_INLINE void store_float(FloatBatch x, Float16* to) {
  const __m128i bits = _mm_castps_si128(x);
  const __m128i sign = _mm_and_si128(bits, _mm_set1_epi32(static_cast<int>(0x80000000u)));
  const __m128i magnitude = _mm_xor_si128(bits, sign);
  const __m128i subnormal =
      _mm_sub_epi32(_mm_castps_si128(_mm_add_ps(_mm_castsi128_ps(magnitude), _mm_set1_ps(0.5f))),
                    _mm_set1_epi32(0x3f000000));
  const __m128i odd = _mm_and_si128(_mm_srli_epi32(magnitude, 13), _mm_set1_epi32(1));
  const __m128i normal = _mm_srli_epi32(
      _mm_add_epi32(_mm_add_epi32(magnitude, odd), _mm_set1_epi32(static_cast<int>(0xc8000fffu))),
      13);
  const __m128i is_nan = _mm_cmpgt_epi32(magnitude, _mm_set1_epi32(0x7f800000));
  const __m128i overflows = _mm_cmpgt_epi32(magnitude, _mm_set1_epi32(0x477fefff));
  const __m128i is_subnormal = _mm_cmpgt_epi32(_mm_set1_epi32(0x38800000), magnitude);
  __m128i half = _mm_blendv_epi8(normal, subnormal, is_subnormal);
  half = _mm_blendv_epi8(half, _mm_set1_epi32(0x7c00), overflows);
  half = _mm_blendv_epi8(half, _mm_set1_epi32(0x7e00), is_nan);
  store_four(_mm_or_si128(half, _mm_srli_epi32(sign, 16)), to);
}

#elif defined(__aarch64__)

GRADKERN_INLINE DoubleBatch widen(const float* from) { return vcvt_f64_f32(vld1_f32(from)); }
GRADKERN_INLINE DoubleBatch widen_low(FloatBatch x) { return vcvt_f64_f32(vget_low_f32(x)); }
GRADKERN_INLINE DoubleBatch widen_high(FloatBatch x) { return vcvt_high_f64_f32(x); }
GRADKERN_INLINE FloatBatch load_float(const BFloat16* from) {
  return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(reinterpret_cast<const uint16_t*>(from)), 16));
}
GRADKERN_INLINE FloatBatch load_float(const Float16* from) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const uint16_t*>(from))));
}
GRADKERN_INLINE void store_float(FloatBatch x, BFloat16* to) {
  const uint32x4_t bits = vreinterpretq_u32_f32(x);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
  const uint32x4_t kept = vbslq_u32(vceqq_f32(x, x), rounded, vdupq_n_u32(0x7fc00000));
  vst1_u16(reinterpret_cast<uint16_t*>(to), vshrn_n_u32(kept, 16));
}
GRADKERN_INLINE void store_float(FloatBatch x, Float16* to) {
  vst1_u16(reinterpret_cast<uint16_t*>(to), vreinterpret_u16_f16(vcvt_f16_f32(x)));
}

#else
#error "no instruction set that gradkern knows: SSE4.2, AVX2, AVX-512 or NEON"
#endif

// The smaller, where an element is excluded. Before AVX-512 the exclusion is an OR: it makes a NaN
// of the element, and the x86 minimum returns its second operand for a NaN. (Blending costs GCC 12
// two more instructions for each register.)
#if defined(__AVX2__) && !defined(__AVX512F__)
GRADKERN_INLINE FloatBatch smaller_unless(FloatBatch::batch_bool_type excluded, FloatBatch x,
                                          FloatBatch y) {
  return _mm256_min_ps(_mm256_or_ps(x, excluded), y);
}
GRADKERN_INLINE DoubleBatch smaller_unless(DoubleBatch::batch_bool_type excluded, DoubleBatch x,
                                           DoubleBatch y) {
  return _mm256_min_pd(_mm256_or_pd(x, excluded), y);
}
#elif defined(__SSE4_2__) && !defined(__AVX512F__)
GRADKERN_INLINE FloatBatch smaller_unless(FloatBatch::batch_bool_type excluded, FloatBatch x,
                                          FloatBatch y) {
  return _mm_min_ps(_mm_or_ps(x, excluded), y);
}
GRADKERN_INLINE DoubleBatch smaller_unless(DoubleBatch::batch_bool_type excluded, DoubleBatch x,
                                           DoubleBatch y) {
  return _mm_min_pd(_mm_or_pd(x, excluded), y);
}
#else
template <class Batch>
GRADKERN_INLINE Batch smaller_unless(typename Batch::batch_bool_type excluded, Batch x, Batch y) {
  return xsimd::select(excluded, y, xsimd::min(x, y));
}
#endif

template <class T>
GRADKERN_INLINE RunningPack<T> include_smaller_unless(const Mask<T>& condition, const Pack<T>& x,
                                                      RunningPack<T> so_far) {
  for (int i = 0; i < Pack<T>::kParts; i++) {
    so_far.value = smaller_unless(condition.part[i], x.part[i], so_far.value);
  }
  return so_far;
}

// ---- sixteen elements ------------------------------------------------------------------------

// Elements as they are compared (`narrow`) and as they are summed (`wide`).
template <class Narrow>
struct Elements {
  Pack<Narrow> narrow;
  Pack<double> wide;
};

GRADKERN_INLINE Elements<float> load(const float* from) {
  // The float64 copies are converted from memory, not from the register: one instruction each.
  return {Pack<float>::load(from),
          Pack<double>::generate([&](int i) { return widen(from + i * Pack<double>::kWidth); })};
}
// Read twice: of a copied pack GCC 12 makes a round trip through memory.
GRADKERN_INLINE Elements<double> load(const double* from) {
  return {Pack<double>::load(from), Pack<double>::load(from)};
}
// Part by part, for the same reason.
GRADKERN_INLINE void set_part(Elements<float>& x, int i, FloatBatch part) {
  x.narrow.part[i] = part;
  x.wide.part[2 * i] = widen_low(part);
  x.wide.part[2 * i + 1] = widen_high(part);
}
template <class Half>
GRADKERN_INLINE Elements<float> load_half(const Half* from) {
  Elements<float> x;
  for (int i = 0; i < Pack<float>::kParts; i++) {
    set_part(x, i, load_float(from + i * Pack<float>::kWidth));
  }
  return x;
}
GRADKERN_INLINE Elements<float> load(const BFloat16* from) { return load_half(from); }
GRADKERN_INLINE Elements<float> load(const Float16* from) { return load_half(from); }

// |z|: squares of float32 fit float64; a complex128 takes the C library's careful hypot.
inline double modulus(Complex<float> z) {
  return std::sqrt(double(z.real) * z.real + double(z.imag) * z.imag);
}
inline double modulus(Complex<double> z) { return std::hypot(z.real, z.imag); }
template <class T>
GRADKERN_INLINE Elements<double> load(const Complex<T>* from) {
  alignas(64) double lanes[kLanes];
  for (int i = 0; i < kLanes; i++) lanes[i] = modulus(from[i]);
  return load(static_cast<const double*>(lanes));
}

GRADKERN_INLINE void store(const Pack<float>& x, float* to) { x.store(to); }
GRADKERN_INLINE void store(const Pack<double>& x, double* to) { x.store(to); }
template <class Half>
GRADKERN_INLINE void store_half(const Pack<float>& x, Half* to) {
  for (int i = 0; i < Pack<float>::kParts; i++) {
    store_float(x.part[i], to + i * Pack<float>::kWidth);
  }
}
GRADKERN_INLINE void store(const Pack<float>& x, BFloat16* to) { store_half(x, to); }
GRADKERN_INLINE void store(const Pack<float>& x, Float16* to) { store_half(x, to); }

// ---- thirty-two elements of bfloat16 -----------------------------------------------------------

// A 32-bit word holds two elements, and each becomes a float32 by one instruction; to widen sixteen
// neighbours takes a shuffle more, and to narrow them two. So where the order of the lanes means
// nothing, one pack has the even elements of thirty-two, and another the odd ones.
using WordBatch = xsimd::batch<uint32_t>;

// How many elements are loaded together where their order means nothing.
template <class T>
inline constexpr int kGroup = kLanes;
template <>
inline constexpr int kGroup<BFloat16> = 2 * kLanes;

GRADKERN_INLINE WordBatch load_words(const BFloat16* from) {
  return xsimd::bitwise_cast<uint32_t>(
      FloatBatch::load_unaligned(reinterpret_cast<const float*>(from)));
}
GRADKERN_INLINE Elements<float> load_even(const BFloat16* from) {
  Elements<float> x;
  for (int i = 0; i < Pack<float>::kParts; i++) {
    const WordBatch words = load_words(from + 2 * i * Pack<float>::kWidth);
    set_part(x, i, xsimd::bitwise_cast<float>(words << 16));
  }
  return x;
}
GRADKERN_INLINE Elements<float> load_odd(const BFloat16* from) {
  Elements<float> x;
  for (int i = 0; i < Pack<float>::kParts; i++) {
    const WordBatch words = load_words(from + 2 * i * Pack<float>::kWidth);
    set_part(x, i, xsimd::bitwise_cast<float>(words & WordBatch(0xffff0000u)));
  }
  return x;
}
// To nearest even in the upper half; what is left in the lower one has no meaning.
GRADKERN_INLINE WordBatch rounded_to_upper_half(FloatBatch x) {
  const WordBatch bits = xsimd::bitwise_cast<uint32_t>(x);
  const WordBatch last_bit = (bits >> 16) & WordBatch(1u);
  return xsimd::select(xsimd::batch_bool_cast<uint32_t>(x == x),
                       bits + (last_bit + WordBatch(0x7fffu)), WordBatch(0x7fc00000u));
}
GRADKERN_INLINE void store_pair(const Pack<float>& even, const Pack<float>& odd, BFloat16* to) {
  for (int i = 0; i < Pack<float>::kParts; i++) {
    const WordBatch words = (rounded_to_upper_half(even.part[i]) >> 16) |
                            (rounded_to_upper_half(odd.part[i]) & WordBatch(0xffff0000u));
    xsimd::bitwise_cast<float>(words).store_unaligned(
        reinterpret_cast<float*>(to + 2 * i * Pack<float>::kWidth));
  }
}

inline Pack<double> widen(const Pack<double>& x) { return x; }
inline Pack<double> widen(const Pack<float>& x) {
  Pack<double> wide;
  for (int i = 0; i < Pack<float>::kParts; i++) {
    wide.part[2 * i] = widen_low(x.part[i]);
    wide.part[2 * i + 1] = widen_high(x.part[i]);
  }
  return wide;
}

}  // namespace gradkern::cpu::GRADKERN_ISA
