// exp(delta A) of a vector of floats: an error of one unit in the last place and of half a unit of
// delta A, as if that were rounded; of one unit of delta A where there are no fused operations.

#pragma once

#include "shared/floats.h"

namespace rnnscan {
namespace KERNEL_NAMESPACE {
namespace {  // nothing here may be shared with another instruction set

constexpr float kShift = 0x1.8p23f;  // its last digit is worth 1
constexpr float kMild = 125;         // |delta rate| below which powers of 2 are normal numbers

// A log2(e), so that exp(delta A) = 2^(delta rate). Finite where A is: 0 * inf would be nan.
INLINE float rate_of(float decay) {
  constexpr double most = 0x1.fffffep127;
  const double rate = decay * 0x1.71547652b82fep0;
  const bool finite = decay - decay == 0;
  return static_cast<float>(finite && rate > most ? most : finite && rate < -most ? -most : rate);
}

// 2^(delta rate) = 2^n p with an integer n and 1/sqrt(2) <= p <= sqrt(2). `shifted` has n in its
// last digits. The product is not rounded where there are fused operations.
INLINE V split_power(V delta, V rate, V& shifted) {
  shifted = delta * rate + kShift;
  const V n = shifted - kShift;
  const V f = delta * rate - n;
  // 2^f by a minimax polynomial: exactly 1 at 0, elsewhere within 2^-26 before rounding.
  V sum = same(0x1.41fbc6p-13f);
  sum = sum * f + 0x1.5f3e52p-10f;
  sum = sum * f + 0x1.3b2d4cp-7f;
  sum = sum * f + 0x1.c6aee8p-5f;
  sum = sum * f + 0x1.ebfbdcp-3f;
  sum = sum * f + 0x1.62e43p-1f;
  return sum * f + 1.f;
}

// Where |delta rate| < kMild.
INLINE V mild_exponential(V delta, V rate) {
  V shifted;
  const V p = split_power(delta, rate, shifted);
  return as_float(as_bits(p) + (as_bits(shifted) << 23));
}

// Anywhere: 0 where the result is below the normal numbers, inf above, nan for nan.
INLINE V exponential(V delta, V rate) {
  V shifted;
  const V p = split_power(delta, rate, shifted);
  const V n = shifted - kShift;
  const M bits = as_bits(shifted), half = (bits << 23 >> 23) >> 1, rest = (bits << 23 >> 23) - half;
  const V power = p * as_float((half + 127) << 23) * as_float((rest + 127) << 23);
  const V bounded = power < same(0x1p-126f) ? V{} : power;
  // |n| may be anything, and p then has no meaning.
  return n < same(-126) ? V{} : n > same(128) ? same(__builtin_inff()) : bounded;
}

}  // namespace
}  // namespace KERNEL_NAMESPACE
}  // namespace rnnscan
