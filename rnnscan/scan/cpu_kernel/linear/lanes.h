// Lanes, where their elements are, and tiles of them: packed, unpacked, summed.

#pragma once

#include "shared/number.h"

namespace rnnscan {
namespace KERNEL_NAMESPACE {
namespace {  // nothing here may be shared with another instruction set

constexpr int kMaxRuns = 64;
constexpr int kAhead = 4;  // vectors: so many long streams at once no hardware foresees

enum Operand { kA, kDrive, kBefore, kTangent, kReset, kOut, kDecay, kState, kH0, kDState, kOperands };

// A group of lanes that are computed together: runs of neighbours on the last axis.
struct Lanes {
  int64_t width;  // a whole number of vectors
  int64_t id;     // of the first lane, in carries; lanes have consecutive ids
  int64_t skip, count;  // lanes [skip, count) are this group's own, others repeat another's
  int64_t edge_low, edge_high;  // lanes whose segment has the step that h0 precedes
  int runs;
  int64_t start[kMaxRuns + 1];
  int64_t base[kOperands][kMaxRuns];  // of an element at the first step, in processing order
  bool ones;  // every run is one lane
  bool far;   // lanes are segments of time, long and far from each other
};

struct View {
  char* data = nullptr;
  int64_t step = 0;    // elements from one step to the next, in processing order
  int64_t stride = 0;  // elements from one lane of a run to the next: 0 or 1
};

// The lanes of an operand follow each other in memory.
INLINE bool contiguous(const Lanes& lanes, Operand which, int64_t stride) {
  const int64_t* base = lanes.base[which];
  for (int r = 0; r + 1 < lanes.runs; ++r) {
    if (base[r + 1] - base[r] != lanes.start[r + 1] - lanes.start[r]) return false;
  }
  return stride == 1 || lanes.ones;
}

// Square of elements, rows to columns, in registers.
template <class Element>
struct Square {
  using R = typename VectorOf<Element>::V;
  using M = typename VectorOf<Element>::M;
  static constexpr int n = VECTOR_BYTES / sizeof(Element);

  // Blocks of d x d change places across the diagonal of blocks of 2d x 2d.
  template <int d = 1>
  static INLINE void transpose(R (&rows)[n]) {
    if constexpr (d < n) {
      M low, high;
      for (int j = 0; j < n; ++j) {
        low[j] = j & d ? n + (j ^ d) : j;
        high[j] = j & d ? n + j : j ^ d;
      }
#pragma GCC unroll 16
      for (int i = 0; i < n; ++i) {
        if (i & d) continue;
        const R x = rows[i], y = rows[i + d];
        rows[i] = shuffle(x, y, low);
        rows[i + d] = shuffle(x, y, high);
      }
      transpose<2 * d>(rows);
    }
  }
};

// A row of a square in memory, as it is stored.
template <class D>
INLINE typename Square<typename D::Wide>::R read_row(const typename D::Stored* from) {
  using Q = Square<typename D::Wide>;
  if constexpr (!D::converts) {
    return load<typename Q::R>(from);
  } else {
    typename D::Wide wide[Q::n];
    D::widen_row(wide, from, Q::n);
    return load<typename Q::R>(wide);
  }
}
template <class D>
INLINE void write_row(typename D::Stored* to, typename Square<typename D::Wide>::R row) {
  using Q = Square<typename D::Wide>;
  if constexpr (!D::converts) {
    store(to, row);
  } else {
    typename D::Wide wide[Q::n];
    store(wide, row);
    D::round_row(to, wide, Q::n);
  }
}

// Rows of a length that is known here: a copy takes an instruction, not a call.
template <int length, class Element>
INLINE void copy_rows(Element* to, int64_t to_step, const Element* from, int64_t from_step,
                      int64_t steps) {
  for (int64_t s = 0; s < steps; ++s) {
    __builtin_memcpy(to + s * to_step, from + s * from_step, length * sizeof(Element));
  }
}
template <int most = 15, class Element>
INLINE bool copy_short_rows(int64_t length, Element* to, int64_t to_step, const Element* from,
                            int64_t from_step, int64_t steps) {
  if (length == most) {
    copy_rows<most>(to, to_step, from, from_step, steps);
    return true;
  }
  if constexpr (most > 1) {
    return copy_short_rows<most - 1>(length, to, to_step, from, from_step, steps);
  }
  return false;
}

// tile[s][lane] = element at step first + s, widened.
template <class D>
void pack(typename D::Wide* tile, const Lanes& lanes, Operand which, const View& view, int64_t first,
          int64_t steps) {
  using Stored = typename D::Stored;
  using Wide = typename D::Wide;
  const auto* data = reinterpret_cast<const Stored*>(view.data) + first * view.step;
  const int64_t* base = lanes.base[which];
  const int64_t width = lanes.width;
  if constexpr (sizeof(Wide) <= 8) {
    using Q = Square<Wide>;
    if (lanes.ones && lanes.runs == Q::n && (view.step == 1 || view.step == -1)) {
      int64_t s = 0;
      for (; s + Q::n <= steps; s += Q::n) {
        typename Q::R rows[Q::n];
        const int64_t from = view.step == 1 ? s : -(s + Q::n - 1);
        #pragma GCC unroll 16
        for (int i = 0; i < Q::n; ++i) {
          if (lanes.far) __builtin_prefetch(data + base[i] + from + kAhead * Q::n * view.step);
          rows[i] = read_row<D>(data + base[i] + from);
        }
        Q::transpose(rows);
        for (int i = 0; i < Q::n; ++i) {
          store(tile + (s + (view.step == 1 ? i : Q::n - 1 - i)) * width, rows[i]);
        }
      }
      for (int i = 0; i < Q::n; ++i) {
        for (int64_t u = s; u < steps; ++u) {
          tile[u * width + i] = D::widen(data[base[i] + u * view.step]);
        }
      }
      return;
    }
  }
  for (int r = 0; r < lanes.runs; ++r) {
    const int64_t length = lanes.start[r + 1] - lanes.start[r];
    const Stored* from = data + base[r];
    Wide* to = tile + lanes.start[r];
    if constexpr (!D::converts) {
      const bool short_row = view.stride == 1 || length == 1;
      if (short_row && copy_short_rows(length, to, width, from, view.step, steps)) continue;
    }
    if (length == 1) {
      for (int64_t s = 0; s < steps; ++s) to[s * width] = D::widen(from[s * view.step]);
    } else if (view.stride == 1) {
      for (int64_t s = 0; s < steps; ++s) {
        D::widen_row(to + s * width, from + s * view.step, length);
      }
    } else {
      for (int64_t s = 0; s < steps; ++s) {
        const Wide same = D::widen(from[s * view.step]);
        for (int64_t i = 0; i < length; ++i) to[s * width + i] = same;
      }
    }
  }
}

// The inverse of `pack` for an operand with an element of its own for each lane and step.
template <class D>
void unpack(const typename D::Wide* tile, const Lanes& lanes, Operand which, const View& view,
            int64_t first, int64_t steps) {
  using Stored = typename D::Stored;
  using Wide = typename D::Wide;
  auto* data = reinterpret_cast<Stored*>(view.data) + first * view.step;
  const int64_t* base = lanes.base[which];
  const int64_t width = lanes.width;
  if constexpr (sizeof(Wide) <= 8) {
    using Q = Square<Wide>;
    if (lanes.ones && lanes.runs == Q::n && (view.step == 1 || view.step == -1)) {
      int64_t s = 0;
      for (; s + Q::n <= steps; s += Q::n) {
        typename Q::R rows[Q::n];
        for (int i = 0; i < Q::n; ++i) {
          const int64_t row = s + (view.step == 1 ? i : Q::n - 1 - i);
          rows[i] = load<typename Q::R>(tile + row * width);
        }
        Q::transpose(rows);
        const int64_t to = view.step == 1 ? s : -(s + Q::n - 1);
        for (int64_t i = 0; i < lanes.count; ++i) {
          if (lanes.far) __builtin_prefetch(data + base[i] + to + kAhead * Q::n * view.step, 1);
          write_row<D>(data + base[i] + to, rows[i]);
        }
      }
      for (int64_t i = 0; i < lanes.count; ++i) {
        for (int64_t u = s; u < steps; ++u) {
          data[base[i] + u * view.step] = D::round(tile[u * width + i]);
        }
      }
      return;
    }
  }
  for (int r = 0; r < lanes.runs && lanes.start[r] < lanes.count; ++r) {
    const int64_t length = lanes.start[r + 1] - lanes.start[r];
    Stored* to = data + base[r];
    const Wide* from = tile + lanes.start[r];
    if constexpr (!D::converts) {
      if (copy_short_rows(length, to, view.step, from, width, steps)) continue;
    }
    if (length == 1) {
      for (int64_t s = 0; s < steps; ++s) to[s * view.step] = D::round(from[s * width]);
    } else {
      for (int64_t s = 0; s < steps; ++s) {
        D::round_row(to + s * view.step, from + s * width, length);
      }
    }
  }
}

// sums[element] += tile[s][lane], for an operand that lanes or steps share.
template <class D>
void accumulate(const typename D::Wide* tile, const Lanes& lanes, Operand which, const View& view,
                int64_t first, int64_t steps, typename D::Wide* sums) {
  using Wide = typename D::Wide;
  const int64_t* base = lanes.base[which];
  for (int64_t s = 0; s < steps; ++s) {
    const Wide* row = tile + s * lanes.width;
    Wide* to = sums + (first + s) * view.step;
    for (int r = 0; r < lanes.runs; ++r) {
      const int64_t low = max(lanes.start[r], lanes.skip);
      const int64_t high = min(lanes.start[r + 1], lanes.count);
      if (low >= high) continue;
      Wide* at = to + base[r] + (low - lanes.start[r]) * view.stride;
      if (view.stride == 1) {
        for (int64_t i = low; i < high; ++i) at[i - low] = D::add(at[i - low], row[i]);
      } else {
        constexpr int several = 16;  // chains of additions, for speed and for accuracy
        if (high - low < several) {
          Wide sum = row[low];
          for (int64_t i = low + 1; i < high; ++i) sum = D::add(sum, row[i]);
          *at = D::add(*at, sum);
          continue;
        }
        Wide part[several] = {};
        int64_t i = low;
        for (; i + several <= high; i += several) {
          for (int k = 0; k < several; ++k) part[k] = D::add(part[k], row[i + k]);
        }
        for (int k = 0; i < high; ++i, ++k) part[k] = D::add(part[k], row[i]);
        for (int d = several / 2; d; d /= 2) {
          for (int k = 0; k < d; ++k) part[k] = D::add(part[k], part[k + d]);
        }
        *at = D::add(*at, part[0]);
      }
    }
  }
}

}  // namespace
}  // namespace KERNEL_NAMESPACE
}  // namespace rnnscan
