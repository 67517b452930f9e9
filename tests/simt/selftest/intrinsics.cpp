// Each family of the CUDA vocabulary, as a kernel that writes down what it got.
#include "selftest/report.h"

namespace {

enum Shuffle { kIndex, kUp, kDown, kXor };

template <class T>
__global__ void shuffle(Shuffle kind, int argument, int width, unsigned mask, const T* in, T* out) {
  const unsigned lane = threadIdx.x;
  if (!(mask >> lane & 1)) return;
  const T value = in[lane];
  switch (kind) {
    case kIndex:
      out[lane] = __shfl_sync(mask, value, argument, width);
      break;
    case kUp:
      out[lane] = __shfl_up_sync(mask, value, argument, width);
      break;
    case kDown:
      out[lane] = __shfl_down_sync(mask, value, argument, width);
      break;
    case kXor:
      out[lane] = __shfl_xor_sync(mask, value, argument, width);
      break;
  }
}

// The even lanes reduce among themselves while the odd ones already wait for the whole warp.
__global__ void parts_of_a_warp(int* out) {
  const int lane = static_cast<int>(threadIdx.x);
  int sum = lane;
  if (lane % 2 == 0) {
    for (int distance = 16; distance > 1; distance /= 2) {
      sum += __shfl_xor_sync(0x55555555u, sum, distance);
    }
  }
  __syncwarp();
  out[lane] = __shfl_sync(0xffffffffu, sum, 0);
}

// Ten results for each thread: warp votes, block votes, a match.
__global__ void votes(const int* in, int* out) {
  const int i = static_cast<int>(threadIdx.x);
  int* const row = out + 7 * i;
  row[0] = static_cast<int>(__ballot_sync(0xffffffffu, in[i]));
  row[1] = __any_sync(0xffffffffu, in[i]);
  row[2] = __all_sync(0xffffffffu, in[i]);
  row[3] = __syncthreads_count(in[i]);
  row[4] = __syncthreads_and(in[i]);
  row[5] = __syncthreads_or(in[i]);
  row[6] = static_cast<int>(__match_any_sync(0xffffffffu, in[i]));
}

struct Atomics {
  int int_sum, int_min, int_max, int_difference, int_wrapped;
  unsigned unsigned_sum, unsigned_max, ticks_up, ticks_down, bits_or, bits_and, bits_xor, swapped;
  unsigned long long long_sum, long_max, long_swapped;
  float float_sum;
  double double_sum;
};

// Every thread of the grid adds its number.
__global__ void atomics(Atomics* a) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  atomicAdd(&a->int_sum, static_cast<int>(i));
  atomicMin(&a->int_min, -static_cast<int>(i));
  atomicMax(&a->int_max, static_cast<int>(i));
  atomicSub(&a->int_difference, static_cast<int>(i));
  atomicAdd(&a->int_wrapped, 1 << 30);
  atomicAdd(&a->unsigned_sum, i);
  atomicMax(&a->unsigned_max, i);
  atomicInc(&a->ticks_up, 9);
  atomicDec(&a->ticks_down, 9);
  atomicOr(&a->bits_or, 1u << i % 32);
  atomicAnd(&a->bits_and, ~(1u << i % 16));
  atomicXor(&a->bits_xor, i);
  atomicExch(&a->swapped, i);
  atomicAdd(&a->long_sum, 1ull << 33);
  atomicMax(&a->long_max, static_cast<unsigned long long>(i) << 33);
  unsigned long long seen = 0, before;  // an addition of i, as CUDA programmers spell others
  do {
    before = seen;
    seen = atomicCAS(&a->long_swapped, before, before + i);
  } while (seen != before);
  atomicAdd(&a->float_sum, i);
  atomicAdd(&a->double_sum, 0.5);
}

// For each x: __clz, __ffs, __popc, __brev, then the bits of x as a float and back.
__global__ void integers(const int* in, int* out) {
  const int x = in[threadIdx.x];
  int* const row = out + 8 * threadIdx.x;
  row[0] = __clz(x);
  row[1] = __ffs(x);
  row[2] = __popc(static_cast<unsigned>(x));
  row[3] = static_cast<int>(__brev(static_cast<unsigned>(x)));
  row[4] = __float_as_int(__int_as_float(x));
  row[5] = static_cast<int>(__float_as_uint(__uint_as_float(static_cast<unsigned>(x))));
  const double d = __hiloint2double(x, ~x);
  row[6] = __double2hiint(__longlong_as_double(__double_as_longlong(d)));
  row[7] = __double2loint(d);
}

// For each x: sums and products rounded on the way, and minima that drop a NaN.
__global__ void floats(const double* in, double* out) {
  const double x = in[threadIdx.x];
  const float f = __double2float_rn(x);
  double* const row = out + 8 * threadIdx.x;
  row[0] = __dadd_rn(__dmul_rn(x, x), -x);
  row[1] = __fma_rn(x, x, -x);
  row[2] = __fadd_rn(__fmul_rn(f, f), -f);
  row[3] = __fmaf_rn(f, f, -f);
  row[4] = rsqrtf(f);
  row[5] = min(f, 1.0f);
  row[6] = max(1.0f, f);
  row[7] = min(-1, max(2, 7u) > 6u ? 1 : 0);
}

// Storage types through the loads and stores that kernels use.
template <class T>
__global__ void copy(const T* __restrict__ in, T* __restrict__ out) {
  const unsigned i = threadIdx.x;
  switch (i % 4) {
    case 0:
      __stcs(out + i, __ldg(in + i));
      break;
    case 1:
      __stcg(out + i, __ldcg(in + i));
      break;
    case 2:
      __stwt(out + i, __ldcs(in + i));
      break;
    default:
      __stwb(out + i, __ldcv(in + i));
  }
}

__global__ void round_to_16_bits(const float* in, float* halves, float* bfloats) {
  const unsigned i = threadIdx.x;
  halves[i] = __half2float(__float2half_rn(in[i]));
  bfloats[i] = __bfloat162float(__float2bfloat16_rn(in[i]));
}

template <class T>
int run_shuffle(int kind, int argument, int width, unsigned mask, const T* in, T* out) {
  return selftest::report([=] {
    simt::launch(1, 32, 0,
                 [=] { shuffle(static_cast<Shuffle>(kind), argument, width, mask, in, out); });
  });
}

}  // namespace

extern "C" {

int selftest_shuffle_double(int kind, int argument, int width, unsigned mask, const double* in,
                            double* out) {
  return run_shuffle(kind, argument, width, mask, in, out);
}
int selftest_shuffle_int(int kind, int argument, int width, unsigned mask, const int* in,
                         int* out) {
  return run_shuffle(kind, argument, width, mask, in, out);
}
int selftest_parts_of_a_warp(int* out) {
  return selftest::report([=] { simt::launch(1, 32, 0, [=] { parts_of_a_warp(out); }); });
}
int selftest_votes(const int* in, int* out, unsigned threads) {
  return selftest::report([=] { simt::launch(1, threads, 0, [=] { votes(in, out); }); });
}
int selftest_atomics(unsigned blocks, unsigned threads, Atomics* a) {
  return selftest::report([=] { simt::launch(blocks, threads, 0, [=] { atomics(a); }); });
}
int selftest_integers(const int* in, int* out, unsigned n) {
  return selftest::report([=] { simt::launch(1, n, 0, [=] { integers(in, out); }); });
}
int selftest_floats(const double* in, double* out, unsigned n) {
  return selftest::report([=] { simt::launch(1, n, 0, [=] { floats(in, out); }); });
}
int selftest_copy_float4(const float4* in, float4* out, unsigned n) {
  return selftest::report([=] { simt::launch(1, n, 0, [=] { copy(in, out); }); });
}
int selftest_copy_half(const __half* in, __half* out, unsigned n) {
  return selftest::report([=] { simt::launch(1, n, 0, [=] { copy(in, out); }); });
}
int selftest_round_to_16_bits(const float* in, float* halves, float* bfloats, unsigned n) {
  return selftest::report(
      [=] { simt::launch(1, n, 0, [=] { round_to_16_bits(in, halves, bfloats); }); });
}
}
