// Between the lanes of vectors and the order of arrays in memory, four lanes at a time.

#pragma once

#include "shared/floats.h"

namespace rnnscan {
namespace KERNEL_NAMESPACE {
namespace {  // nothing here may be shared with another instruction set

typedef float Four __attribute__((vector_size(16)));
typedef int32_t FourIndices __attribute__((vector_size(16)));
constexpr FourIndices kEven = {0, 4, 2, 6}, kOdd = {1, 5, 3, 7};
constexpr FourIndices kFront = {0, 1, 4, 5}, kBack = {2, 3, 6, 7};

// Four numbers that add up to those of a vector in memory.
INLINE Four fourths(const float* from) {
  Four sum = load<Four>(from);
#pragma GCC unroll 4
  for (int i = 4; i < L; i += 4) sum += load<Four>(from + i);
  return sum;
}

// to[g] = or += the sum of the lanes of from[g].
template <int G>
INLINE void add_lanes(float* to, const float* from, bool replace) {
  static_assert(G == 1 || G == 4);
  if constexpr (G == 1) {
    const Four v = fourths(from);
    const float sum = (v[0] + v[1]) + (v[2] + v[3]);
    *to = replace ? sum : *to + sum;
  } else {  // of four vectors at once: a transposition, half added at each of its steps
    const Four v0 = fourths(from), v1 = fourths(from + L);
    const Four v2 = fourths(from + 2 * L), v3 = fourths(from + 3 * L);
    const Four v01 = shuffle(v0, v1, kEven) + shuffle(v0, v1, kOdd);
    const Four v23 = shuffle(v2, v3, kEven) + shuffle(v2, v3, kOdd);
    const Four sum = shuffle(v01, v23, kFront) + shuffle(v01, v23, kBack);
    store(to, replace ? sum : load<Four>(to) + sum);
  }
}

// to[j][i] = from[i][j] for 4 x 4 numbers, rows `from_row` and `to_row` apart.
INLINE void transpose(float* to, int64_t to_row, const float* from, int64_t from_row) {
  const Four v0 = load<Four>(from), v1 = load<Four>(from + from_row);
  const Four v2 = load<Four>(from + 2 * from_row), v3 = load<Four>(from + 3 * from_row);
  const Four even01 = shuffle(v0, v1, kEven), odd01 = shuffle(v0, v1, kOdd);
  const Four even23 = shuffle(v2, v3, kEven), odd23 = shuffle(v2, v3, kOdd);
  store(to, shuffle(even01, even23, kFront));
  store(to + to_row, shuffle(odd01, odd23, kFront));
  store(to + 2 * to_row, shuffle(even01, even23, kBack));
  store(to + 3 * to_row, shuffle(odd01, odd23, kBack));
}

// to[j][i] = from[i][j] for m x n numbers.
INLINE void transpose(float* to, int64_t to_row, const float* from, int64_t from_row, int64_t m,
                      int64_t n) {
  const int64_t whole_m = m / 4 * 4, whole_n = n / 4 * 4;
  for (int64_t i = 0; i < whole_m; i += 4) {
    for (int64_t j = 0; j < whole_n; j += 4) {
      transpose(to + j * to_row + i, to_row, from + i * from_row + j, from_row);
    }
  }
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = i < whole_m ? whole_n : 0; j < n; ++j) {
      to[j * to_row + i] = from[i * from_row + j];
    }
  }
}

// Of each of some channels, at most L, `count` of its `row` numbers: to a vector for each of these,
// the other lanes 0, and back.
INLINE void to_lanes(float* to, const float* from, int64_t channels, int64_t row, int64_t count) {
  if (channels < L) std::memset(to, 0, count * L * sizeof(float));
  transpose(to, L, from, row, channels, count);
}
INLINE void from_lanes(float* to, const float* from, int64_t channels, int64_t count) {
  transpose(to, count, from, L, count, channels);
}

}  // namespace
}  // namespace KERNEL_NAMESPACE
}  // namespace rnnscan
