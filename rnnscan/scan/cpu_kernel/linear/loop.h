// The loop over time, for all three maps. Pointers and strides count reals; lanes lie one behind the
// other.

#pragma once

#include "linear/problem.h"
#include "shared/number.h"

namespace rnnscan {
namespace KERNEL_NAMESPACE {
namespace {  // nothing here may be shared with another instruction set

enum class Decay { none, store, sum };  // what the transpose does with da_t

template <class N>
struct Loop {
  using R = typename N::R;
  using V = typename N::V;
  using M = typename N::M;

  const R *a, *drive, *before, *tangent;  // a_t; b_t, db_t or g_t; h_{t-1}; da_t
  R *out, *d_decay;
  const typename N::Bits* drop;  // all ones where the step resets
  int64_t a_step, drive_step, before_step, tangent_step, out_step, d_decay_step, drop_step;

  INLINE void advance() {
    a += a_step;
    drive += drive_step;
    before += before_step;
    tangent += tangent_step;
    out += out_step;
    d_decay += d_decay_step;
    drop += drop_step;
  }

  // The next row: where rows lie apart, the hardware does not foresee it.
  template <Kind kind, Decay decay, bool reduce>
  INLINE void prefetch(int64_t i) const {
    __builtin_prefetch(a + a_step + i);
    __builtin_prefetch(drive + drive_step + i);
    if constexpr (!reduce) __builtin_prefetch(out + out_step + i, 1);
    if constexpr (kind == Kind::tangent) __builtin_prefetch(tangent + tangent_step + i);
    if constexpr (kind == Kind::tangent || (!reduce && decay != Decay::none)) {
      __builtin_prefetch(before + before_step + i);
    }
    if constexpr (decay == Decay::store) __builtin_prefetch(d_decay + d_decay_step + i, 1);
  }

  // x where the step resets, else y.
  template <bool resets>
  INLINE V replaced(int64_t i, V x, V y) const {
    if constexpr (resets) return N::choose(load<M>(drop + i), x, y);
    return y;
  }
  template <bool resets>
  INLINE V kept(int64_t i, V x) const {
    if constexpr (resets) return N::keep(load<M>(drop + i), x);
    return x;
  }
};

// One step of a vector of lanes. `carry` is h_{t-1}, dh_{t-1} or a_{t+1} l_{t+1}; `product`, only
// where a segment is reduced, that of its decays; `total` the sum of da over time.
template <class N, Kind kind, Decay decay, bool reduce, bool resets>
INLINE void step(const Loop<N>& loop, int64_t i, typename N::V& carry, typename N::V& extra) {
  using V = typename N::V;
  const V a = load<V>(loop.a + i);
  V drive = load<V>(loop.drive + i);
  if constexpr (reduce) extra = loop.template kept<resets>(i, N::multiply(a, extra));
  if constexpr (kind == Kind::transpose) {
    const V adjoint = drive + carry;
    if constexpr (!reduce) {
      store(loop.out + i, adjoint);
      if constexpr (decay != Decay::none) {
        const V before = load<V>(loop.before + i);
        if constexpr (decay == Decay::store) {
          store(loop.d_decay + i, loop.template kept<resets>(i, N::multiply(adjoint, before)));
        } else {
          // A nan or inf behind a reset must not meet the sum.
          extra += loop.template kept<resets>(i, N::multiply(adjoint, before));
        }
      }
    }
    carry = loop.template kept<resets>(i, N::multiply(a, adjoint));
  } else {
    V moved;
    if constexpr (kind == Kind::tangent) {
      const V before = load<V>(loop.before + i), tangent = load<V>(loop.tangent + i);
      moved = N::multiply_add(a, carry, N::multiply_add(tangent, before, drive));
    } else {
      moved = N::multiply_add(a, carry, drive);
    }
    carry = loop.template replaced<resets>(i, drive, moved);
    if constexpr (!reduce) store(loop.out + i, carry);
  }
}

template <int vectors, class N, Kind kind, Decay decay, bool reduce, bool resets>
void in_registers(Loop<N> loop, int64_t steps, typename N::R* carry, typename N::R* extra) {
  using V = typename N::V;
  V c[vectors], e[vectors];
  for (int k = 0; k < vectors; ++k) {
    c[k] = load<V>(carry + k * N::reals);
    e[k] = load<V>(extra + k * N::reals);
  }
  for (int64_t s = 0; s < steps; ++s, loop.advance()) {
#pragma GCC unroll 8
    for (int k = 0; k < vectors; ++k) {
      step<N, kind, decay, reduce, resets>(loop, k * N::reals, c[k], e[k]);
    }
  }
  for (int k = 0; k < vectors; ++k) {
    store(carry + k * N::reals, c[k]);
    store(extra + k * N::reals, e[k]);
  }
}

template <class N, Kind kind, Decay decay, bool reduce, bool resets>
void loop_over_time(Loop<N> loop, int64_t steps, int64_t reals, typename N::R* carry,
                    typename N::R* extra) {
  using V = typename N::V;
  if (reals == N::reals) {
    return in_registers<1, N, kind, decay, reduce, resets>(loop, steps, carry, extra);
  }
  if (reals == 2 * N::reals) {
    return in_registers<2, N, kind, decay, reduce, resets>(loop, steps, carry, extra);
  }
  if (reals == 4 * N::reals) {
    return in_registers<4, N, kind, decay, reduce, resets>(loop, steps, carry, extra);
  }
  constexpr bool has_extra = reduce || decay == Decay::sum;
  for (int64_t s = 0; s < steps; ++s, loop.advance()) {  // rows of more lanes than registers hold
    for (int64_t i = 0; i < reals; i += N::reals) {
      V c = load<V>(carry + i), e{};
      if constexpr (has_extra) e = load<V>(extra + i);
      step<N, kind, decay, reduce, resets>(loop, i, c, e);
      store(carry + i, c);
      if constexpr (has_extra) store(extra + i, e);
      loop.template prefetch<kind, decay, reduce>(i);
    }
  }
}

}  // namespace
}  // namespace KERNEL_NAMESPACE
}  // namespace rnnscan
