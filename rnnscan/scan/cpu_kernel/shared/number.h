// Numbers, vectors of them, and how they are stored.

#pragma once

#include <cstdint>
#include <cstring>

#ifdef __F16C__
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#else
#define VECTOR_BYTES 32  // where registers are shorter, a compiler takes two
#endif

#define INLINE inline __attribute__((always_inline))

#include "shared/halves.h"

namespace rnnscan {
namespace KERNEL_NAMESPACE {
namespace {  // nothing here may be shared with another instruction set

using std::size_t;

INLINE int64_t min(int64_t x, int64_t y) { return x < y ? x : y; }
INLINE int64_t max(int64_t x, int64_t y) { return x > y ? x : y; }
INLINE float max(float x, float y) { return x > y ? x : y; }
INLINE double max(double x, double y) { return x > y ? x : y; }
INLINE int64_t ceil_div(int64_t x, int64_t y) { return (x + y - 1) / y; }

template <class R>
struct VectorOf;
template <>
struct VectorOf<float> {
  using Bits = int32_t;
  typedef float V __attribute__((vector_size(VECTOR_BYTES)));
  typedef int32_t M __attribute__((vector_size(VECTOR_BYTES)));
};
template <>
struct VectorOf<double> {
  using Bits = int64_t;
  typedef double V __attribute__((vector_size(VECTOR_BYTES)));
  typedef int64_t M __attribute__((vector_size(VECTOR_BYTES)));
};

template <class V>
INLINE V load(const void* from) {
  V v;
  __builtin_memcpy(&v, from, sizeof(V));
  return v;
}
template <class V>
INLINE void store(void* to, V v) {
  __builtin_memcpy(to, &v, sizeof(V));
}

// v[index[0]], v[index[1]], ... of the two vectors one behind the other; the indices are constants.
template <class V, class M>
INLINE V shuffle(V x, V y, M index) {
#if defined(__clang__)
  constexpr int n = sizeof(M) / sizeof(index[0]);
  V out;
  for (int i = 0; i < n; ++i) out[i] = index[i] < n ? x[index[i]] : y[index[i] - n];
  return out;
#else
  return __builtin_shuffle(x, y, index);
#endif
}

template <class Real, bool is_complex>
struct Number {
  using R = Real;
  using V = typename VectorOf<R>::V;
  using M = typename VectorOf<R>::M;
  using Bits = typename VectorOf<R>::Bits;
  static constexpr int parts = is_complex ? 2 : 1;
  static constexpr int reals = VECTOR_BYTES / sizeof(R);  // in a vector
  static constexpr int lanes = reals / parts;             // numbers in a vector

  static INLINE V keep(M drop, V x) {  // x, or 0 where dropped
    M bits;
    __builtin_memcpy(&bits, &x, sizeof(V));
    bits &= ~drop;
    __builtin_memcpy(&x, &bits, sizeof(V));
    return x;
  }

  static INLINE V choose(M drop, V x, V y) {  // x where dropped, else y
    M bits;
    __builtin_memcpy(&bits, &x, sizeof(V));
    bits &= drop;
    y = keep(drop, y);
    M others;
    __builtin_memcpy(&others, &y, sizeof(V));
    bits |= others;
    __builtin_memcpy(&x, &bits, sizeof(V));
    return x;
  }

  // a x and a x + y.
  static INLINE V multiply(V a, V x) {
    if constexpr (!is_complex) {
      return a * x;
    } else {
      return twice(a, 0) * x + crossed(a) * swapped(x);
    }
  }
  static INLINE V multiply_add(V a, V x, V y) {
    if constexpr (!is_complex) {
      return a * x + y;
    } else {
      return crossed(a) * swapped(x) + (twice(a, 0) * x + y);
    }
  }

 private:
  static INLINE V twice(V a, int part) {  // re re or im im
    M index;
    for (int i = 0; i < reals; ++i) index[i] = (i & ~1) + part;
    return shuffle(a, a, index);
  }
  static INLINE V swapped(V x) {  // im re
    M index;
    for (int i = 0; i < reals; ++i) index[i] = i ^ 1;
    return shuffle(x, x, index);
  }
  static INLINE V crossed(V a) {  // -im im
    V sign;
    for (int i = 0; i < reals; ++i) sign[i] = i & 1 ? R(1) : R(-1);
    return twice(a, 1) * sign;
  }
};

// How an element is stored, and what it is computed as.
struct Pair64 {
  uint64_t words[2];
};

template <class Real, bool is_complex, class StoredElement>
struct Plain {
  using N = Number<Real, is_complex>;
  using Stored = StoredElement;
  using Wide = StoredElement;  // an element in the precision of the computation
  static constexpr bool converts = false;
  static INLINE Wide widen(Stored x) { return x; }
  static INLINE Stored round(Wide x) { return x; }
  static INLINE void widen_row(Wide* to, const Stored* from, int64_t n) {
    std::memcpy(to, from, n * sizeof(Wide));
  }
  static INLINE void round_row(Stored* to, const Wide* from, int64_t n) {
    std::memcpy(to, from, n * sizeof(Wide));
  }
  static INLINE Wide add(Wide x, Wide y) {
    Real a[N::parts], b[N::parts];
    __builtin_memcpy(a, &x, sizeof x);
    __builtin_memcpy(b, &y, sizeof y);
    for (int i = 0; i < N::parts; ++i) a[i] += b[i];
    __builtin_memcpy(&x, a, sizeof x);
    return x;
  }
  static INLINE bool finite(Wide x) {
    Real a[N::parts];
    __builtin_memcpy(a, &x, sizeof x);
    for (Real part : a) {
      if (!(part - part == 0)) return false;
    }
    return true;
  }
};
using F32 = Plain<float, false, float>;
using F64 = Plain<double, false, double>;
using C64 = Plain<float, true, double>;  // moved as 8 bytes
using C128 = Plain<double, true, Pair64>;

struct BF16 : F32 {
  using Stored = uint16_t;
  static constexpr bool converts = true;
  static INLINE float widen(uint16_t x) { return widen_bf16(x); }
  static INLINE uint16_t round(float x) { return round_bf16(x); }
  static INLINE void widen_row(float* to, const uint16_t* from, int64_t n) {
    for (int64_t i = 0; i < n; ++i) to[i] = widen(from[i]);
  }
  static INLINE void round_row(uint16_t* to, const float* from, int64_t n) {
    for (int64_t i = 0; i < n; ++i) to[i] = round(from[i]);
  }
};

struct F16 : F32 {
  using Stored = uint16_t;
  static constexpr bool converts = true;
#ifdef __F16C__
  static INLINE float widen(uint16_t x) { return _cvtsh_ss(x); }
  static INLINE uint16_t round(float x) { return _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT); }
#else
  static INLINE float widen(uint16_t x) { return widen_f16(x); }
  static INLINE uint16_t round(float x) { return round_f16(x); }
#endif
  static INLINE void widen_row(float* to, const uint16_t* from, int64_t n) {
    int64_t i = 0;
#ifdef __F16C__
    for (; i + 8 <= n; i += 8) {
      _mm256_storeu_ps(to + i, _mm256_cvtph_ps(load<__m128i>(from + i)));
    }
#endif
    for (; i < n; ++i) to[i] = widen(from[i]);
  }
  static INLINE void round_row(uint16_t* to, const float* from, int64_t n) {
    int64_t i = 0;
#ifdef __F16C__
    for (; i + 8 <= n; i += 8) {
      store(to + i, _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
    }
#endif
    for (; i < n; ++i) to[i] = round(from[i]);
  }
};

}  // namespace
}  // namespace KERNEL_NAMESPACE
}  // namespace rnnscan
