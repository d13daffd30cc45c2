// exp, sigmoid and tanh of a vector of floats, within a few units in the last place.

#pragma once

#include "shared/floats.h"

namespace rnnscan {
namespace KERNEL_NAMESPACE {
namespace {  // nothing here may be shared with another instruction set

// x within [low, high]; nan stays nan.
INLINE V clamp(V x, float low, float high) {
  x = x < same(low) ? same(low) : x;
  return x > same(high) ? same(high) : x;
}

// exp(x) = 2^n (1 + p), |x - n ln 2| <= ln(2) / 2; for |x| < 87.
INLINE void split_exp(V x, V& power, V& p) {
  constexpr float round_to_integer = 0x1.8p23f;  // its last digit is worth 1
  const V shifted = x * 0x1.715476p0f + round_to_integer;
  const V n = shifted - round_to_integer;
  // ln 2 in two parts: the first has few enough digits that its product with n is exact.
  const V r = (x - n * 0x1.62e4p-1f) - n * 0x1.7f7d1cp-20f;
  // Taylor's series: the first term left out is below 2^-27 of the sum.
  V sum = same(1.f / 5040);
  sum = sum * r + 1.f / 720;
  sum = sum * r + 1.f / 120;
  sum = sum * r + 1.f / 24;
  sum = sum * r + 1.f / 6;
  sum = sum * r + 0.5f;
  p = sum * (r * r) + r;
  power = as_float((as_bits(shifted) << 23) + (127 << 23));
}

INLINE V sigmoid(V x) {
  V power, p;
  split_exp(clamp(-x, -87, 87), power, p);
  return 1 / (1 + (power + power * p));
}

// e / (e + 2) with e = exp(2 |x|) - 1, formed without cancellation.
INLINE V hyperbolic_tangent(V x) {
  const M sign = as_bits(x) & static_cast<int32_t>(0x80000000);
  const V size = as_float(as_bits(x) ^ sign);
  V power, p;
  split_exp(clamp(2 * size, 0, 40), power, p);
  const V e = (power - 1) + power * p;
  return as_float(as_bits(e / (e + 2)) | sign);
}

}  // namespace
}  // namespace KERNEL_NAMESPACE
}  // namespace rnnscan
