// Vectors of float32: what the kernels that know no other precision share.

#pragma once

#include <cstdlib>

#include "shared/number.h"

namespace rnnscan {
namespace KERNEL_NAMESPACE {
namespace {  // nothing here may be shared with another instruction set

using V = VectorOf<float>::V;
using M = VectorOf<float>::M;
constexpr int L = VECTOR_BYTES / sizeof(float);

INLINE V as_float(M bits) {
  V x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}
INLINE M as_bits(V x) {
  M bits;
  __builtin_memcpy(&bits, &x, sizeof x);
  return bits;
}
INLINE V same(float x) { return V{} + x; }

// n of the L numbers at `from`, the others 0.
INLINE V load_some(const float* from, int64_t n) {
  if (n >= L) return load<V>(from);
  V v{};
  __builtin_memcpy(&v, from, n * sizeof(float));
  return v;
}
INLINE void store_some(float* to, V v, int64_t n) {
  if (n >= L) {
    store(to, v);
  } else {
    __builtin_memcpy(to, &v, n * sizeof(float));
  }
}

float* new_floats(int64_t count) {
  void* memory = nullptr;
  const bool failed = posix_memalign(&memory, 64, max(1, count) * sizeof(float));
  return failed ? nullptr : static_cast<float*>(memory);
}

}  // namespace
}  // namespace KERNEL_NAMESPACE
}  // namespace rnnscan
