// bfloat16 and float16 as bits, to float and back to the nearest even. INLINE is the includer's.

#pragma once

#ifndef __CUDACC_RTC__
#include <cstdint>
#endif

namespace rnnscan {
namespace {  // nothing here may be shared with another instruction set

#ifdef __CUDACC_RTC__
INLINE uint32_t bits_of(float x) { return __float_as_uint(x); }
INLINE float float_of(uint32_t bits) { return __uint_as_float(bits); }
#else
INLINE uint32_t bits_of(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  return bits;
}
INLINE float float_of(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}
#endif

INLINE float widen_bf16(uint16_t x) { return float_of(static_cast<uint32_t>(x) << 16); }
INLINE uint16_t round_bf16(float x) {  // nan stays nan
  const uint32_t bits = bits_of(x);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const uint32_t quiet = (bits >> 16) | 0x40;
  return static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? quiet : rounded);
}

#ifdef __CUDACC_RTC__
INLINE float widen_f16(uint16_t x) {
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x));
  return wide;
}
INLINE uint16_t round_f16(float x) {
  uint16_t half;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(x));
  return half;
}
#else
INLINE float widen_f16(uint16_t x) {
  const uint32_t sign = static_cast<uint32_t>(x & 0x8000) << 16, rest = x & 0x7fff;
  uint32_t bits;
  if (rest >= 0x7c00) {
    bits = 0x7f800000 | (rest & 0x3ff) << 13;
  } else if (rest >= 0x400) {
    bits = (rest << 13) + (112u << 23);
  } else {  // subnormal: an integer times 2^-24
    bits = bits_of(static_cast<float>(rest) * 0x1p-24f);
  }
  return float_of(bits | sign);
}
INLINE uint16_t round_f16(float x) {
  uint32_t bits = bits_of(x);
  const uint32_t sign = bits >> 16 & 0x8000;
  bits &= 0x7fffffff;
  uint32_t half;
  if (bits > 0x7f800000) {
    half = 0x7e00;
  } else if (bits >= 0x47800000) {
    half = 0x7c00;
  } else if (bits < 0x38800000) {  // below 2^-14: let an addition do the rounding
    half = bits_of(float_of(bits) + 0.5f) - 0x3f000000;
  } else {
    half = (bits - (112u << 23) + 0xfff + (bits >> 13 & 1)) >> 13;
  }
  return static_cast<uint16_t>(sign | half);
}
#endif

}  // namespace
}  // namespace rnnscan
