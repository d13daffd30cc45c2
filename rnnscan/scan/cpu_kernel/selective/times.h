// softplus of a vector of floats and its slope, within a few units in the last place.

#pragma once

#include "selective/exponential.h"

namespace rnnscan {
namespace KERNEL_NAMESPACE {
namespace {  // nothing here may be shared with another instruction set

// exp(-|x|).
INLINE V falling(V x) {
  const V size = as_float(as_bits(x) & 0x7fffffff);
  return exponential(-size, same(0x1.715476p0f));
}

// max(x, 0) + log(1 + e) with e = exp(-|x|), and log(1 + e) = 2 artanh(e / (2 + e)), whose series
// is cut off below 2^-26 of it.
INLINE V softplus(V x) {
  const V e = falling(x), s = e / (2 + e), square = s * s;
  V sum = same(1.f / 13);
  sum = sum * square + 1.f / 11;
  sum = sum * square + 1.f / 9;
  sum = sum * square + 1.f / 7;
  sum = sum * square + 1.f / 5;
  sum = sum * square + 1.f / 3;
  const V rising = x < V{} ? V{} : x;
  return rising + 2 * (sum * square * s + s);
}

// Its derivative, sigmoid(x): exactly 0 at -inf.
INLINE V softplus_slope(V x) {
  const V e = falling(x);
  return (x < V{} ? e : same(1)) / (1 + e);
}

}  // namespace
}  // namespace KERNEL_NAMESPACE
}  // namespace rnnscan
