// One call: which lanes there are, and how a group of them goes through a stretch of time.

#pragma once

#include "linear/lanes.h"
#include "linear/loop.h"
#include "linear/problem.h"

namespace rnnscan {
namespace KERNEL_NAMESPACE {
namespace {  // nothing here may be shared with another instruction set

constexpr int64_t kTile = 1024;       // elements of a packed tile
constexpr int64_t kDirectSteps = 1024;  // so often a sum over time starts anew, for accuracy
constexpr int64_t kDirectWidth = kTile;  // lanes of a wide group
constexpr int64_t kPackedWidth = 256;
constexpr int64_t kSegmentBytes = 1 << 16;  // of the drive, in a wide segment: it is read twice
constexpr int64_t kSerialBytes = 1 << 22;   // below, waking a thread costs more than it brings
constexpr int64_t kChainedBytes = 1 << 23;  // the same where threads share a chain, and read twice
constexpr int64_t kThreadBytes = 1 << 18;  // for each thread, at least
constexpr int64_t kShortest = 64;          // steps of a segment

template <class D>
struct Scratch {
  using Wide = typename D::Wide;
  alignas(64) Wide tiles[kOperands][kTile];
  alignas(64) Wide carry[kDirectWidth];
  alignas(64) Wide extra[kDirectWidth];
};

// What a piece of work adds to: the set of sums of da and of dh0 that is its own.
template <class Wide>
struct Sums {
  Wide *decay, *state;
};

// Maps c -> p c + b of stretches of time that follow each other in memory, one a lane.
template <class N>
struct Maps {
  typename N::V p, b;
};

// Neighbours joined: 2 n maps to n, in the same order. In processing order the first of two
// neighbours is the earlier one, or the later where time runs down (Blelloch 1990, section 1.4.1).
template <class N, bool down>
INLINE Maps<N> join(const Maps<N>& x, const Maps<N>& y) {
  typename N::M even, odd;
  for (int i = 0; i < N::reals; ++i) {
    even[i] = 2 * i;
    odd[i] = 2 * i + 1;
  }
  const Maps<N> low{shuffle(x.p, y.p, even), shuffle(x.b, y.b, even)};
  const Maps<N> high{shuffle(x.p, y.p, odd), shuffle(x.b, y.b, odd)};
  const Maps<N>&earlier = down ? high : low, &later = down ? low : high;
  return {later.p * earlier.p, later.p * earlier.b + later.b};
}

// The maps of 2^levels vectors of steps, joined to one vector.
template <class N, Kind kind, bool down, int levels>
INLINE Maps<N> joined(const typename N::R* a, const typename N::R* drive) {
  using V = typename N::V;
  if constexpr (levels == 0) {
    const V p = load<V>(a), b = load<V>(drive);
    if constexpr (kind == Kind::transpose) return {p, p * b};
    return {p, b};
  } else {
    constexpr int half = N::reals << (levels - 1);
    const auto low = joined<N, kind, down, levels - 1>(a, drive);
    return join<N, down>(low, joined<N, kind, down, levels - 1>(a + half, drive + half));
  }
}

// The map of steps [0, steps) of one lane, contiguous in memory: a tree inside of vectors, which
// takes half as long as turning the lane by tiles.
template <class N, Kind kind, bool down>
void reduce_lane(const typename N::R* a, const typename N::R* drive, int64_t steps,
                 typename N::R& product, typename N::R& carry) {
  using R = typename N::R;
  constexpr int levels = 4;
  constexpr int64_t block = N::reals << levels;
  R p = 1, b = 0;
  int64_t s = 0;
  for (; s + block <= steps; s += block) {
    const int64_t from = down ? -(s + block - 1) : s;
    const auto maps = joined<N, kind, down, levels>(a + from, drive + from);
    for (int i = 0; i < N::reals; ++i) {
      const int at = down ? N::reals - 1 - i : i;
      p *= maps.p[at];
      b = maps.p[at] * b + maps.b[at];
    }
  }
  for (; s < steps; ++s) {
    const R decay = a[down ? -s : s], x = drive[down ? -s : s];
    p *= decay;
    b = kind == Kind::transpose ? decay * (b + x) : decay * b + x;
  }
  product = p;
  carry = b;
}

template <class D, Kind kind>
struct Plan {
  using N = typename D::N;
  using R = typename N::R;
  using Wide = typename D::Wide;
  using Stored = typename D::Stored;

  const Problem& problem;
  View views[kOperands];
  int64_t strides[kOperands][kMaxRank];
  int64_t steps;           // T
  int64_t outer, inner;    // lanes before and behind time
  int64_t edge;            // the step, in processing order, that h0 precedes; -1 where h is not read
  bool wide;
  bool resets;
  Decay decay = Decay::none;
  bool shared_decay = false, shared_state = false;  // da and dh0 are summed over something
  int64_t chains;             // outer * inner

  // Time in segments: narrow ones are lanes, and all as long as each other.
  int64_t segments = 1, segment_steps;

  Wide *carries = nullptr, *lasts = nullptr;  // before the first and after the last step, by lane id
  bool ends = true;  // whether the last step is that of the recurrence, not of a segment

  int active[kOperands], actives = 0;  // the operands that there are

  explicit Plan(const Problem& p) : problem(p) {
    steps = p.shape[p.axis];
    outer = inner = 1;
    for (int i = 0; i < p.axis; ++i) outer *= p.shape[i];
    for (int i = p.axis + 1; i < p.rank; ++i) inner *= p.shape[i];
    chains = outer * inner;
    segment_steps = steps;
    wide = inner >= N::lanes;
    resets = p.reset.data != nullptr;
    const Array* arrays[kOperands] = {&p.a,   &p.drive,   &p.h,     &p.decay_tangent, &p.reset,
                                      &p.out, &p.d_decay, &p.state, &p.h0,            &p.d_state};
    const bool backwards = p.reverse != (kind == Kind::transpose);
    for (int k = 0; k < kOperands; ++k) {
      const Array& array = *arrays[k];
      View& view = views[k];
      if (array.data) active[actives++] = k;
      view.data = static_cast<char*>(array.data);
      for (int i = 0; i < p.rank; ++i) strides[k][i] = array.strides[i];
      view.stride = p.shape[p.rank - 1] == 1 ? 1 : strides[k][p.rank - 1];
      view.step = strides[k][p.axis];
      strides[k][p.axis] = 0;
      if (backwards) {
        if (view.data) view.data += (steps - 1) * view.step * element_size(k);
        view.step = -view.step;
      }
    }
    edge = -1;
    if (p.h.data) {  // one step earlier in scan order
      const int64_t earlier = kind == Kind::transpose ? 1 : -1;
      views[kBefore].data += earlier * views[kBefore].step * element_size(kBefore);
      edge = kind == Kind::transpose ? steps - 1 : 0;
    }
    if (p.d_decay.data) {
      bool summed_elsewhere = false;
      for (int i = 0; i < p.rank; ++i) {
        if (i != p.axis && p.shape[i] > 1 && !p.d_decay.strides[i]) summed_elsewhere = true;
      }
      const bool over_time = steps > 1 && !p.d_decay.strides[p.axis];
      decay = over_time ? Decay::sum : Decay::store;
      shared_decay = over_time || summed_elsewhere;
    }
    if (kind == Kind::transpose) shared_state = p.d_state.size < chains;
  }

  static int64_t element_size(int operand) {
    return operand == kReset ? 1 : static_cast<int64_t>(sizeof(Stored));
  }

  // Offsets, but for time, of a chain by its axes in [low, high).
  void add_offsets(int64_t index, int low, int high, int64_t (&offset)[kOperands]) const {
    for (int i = high - 1; i >= low; --i) {
      const int64_t size = problem.shape[i];
      const int64_t at = index % size;
      index /= size;
      if (!at) continue;
      for (int n = 0; n < actives; ++n) offset[active[n]] += at * strides[active[n]][i];
    }
  }

  // A group of neighbours [low, low + width) behind time, of one place before time.
  // It may be cut short where there are more runs than a group can hold.
  void wide_lanes(Lanes& lanes, int64_t place, int64_t low, int64_t width) const {
    int64_t outside[kOperands] = {};
    add_offsets(place, 0, problem.axis, outside);
    const int last = problem.rank - 1;
    const int64_t size = problem.shape[last];
    lanes.id = place * inner + low;
    lanes.skip = 0;
    lanes.edge_low = 0;
    lanes.edge_high = width;
    lanes.runs = 0;
    lanes.ones = lanes.far = false;
    int64_t at = 0;
    while (at < width && lanes.runs < kMaxRuns) {
      int64_t offset[kOperands];
      for (int n = 0; n < actives; ++n) offset[active[n]] = outside[active[n]];
      add_offsets((low + at) / size, problem.axis + 1, last, offset);
      const int64_t within = (low + at) % size;
      for (int n = 0; n < actives; ++n) {
        const int k = active[n];
        lanes.base[k][lanes.runs] = offset[k] + within * strides[k][last];
      }
      lanes.start[lanes.runs++] = at;
      at = min(width, at + size - within);
    }
    lanes.start[lanes.runs] = at;
    lanes.width = lanes.count = at;
  }

  // One vector of lanes, of consecutive ids: a segment's chains, then the next segment's.
  void narrow_lanes(Lanes& lanes, int64_t id, int64_t total) const {
    lanes.width = N::lanes;
    lanes.id = id;
    lanes.skip = 0;
    lanes.count = min(N::lanes, total - id);
    const int last = problem.rank - 1;
    lanes.ones = last == problem.axis || problem.shape[last] == 1;
    lanes.far = segments > 1;
    lanes.runs = 0;
    bool begins = true;  // a run: neighbours on the last axis, if that is not time
    lanes.edge_low = N::lanes;
    lanes.edge_high = 0;
    const int64_t edge_segment = edge > 0 ? edge / segment_steps : 0;
    int64_t segment = id / chains, chain = id % chains;
    int64_t offset[kOperands] = {}, index[kMaxRank];
    for (int64_t rest = chain, i = problem.rank - 1; i >= 0; --i) {
      const int64_t size = i == problem.axis ? 1 : problem.shape[i];
      index[i] = rest % size;
      rest /= size;
      for (int n = 0; n < actives; ++n) offset[active[n]] += index[i] * strides[active[n]][i];
    }
    for (int i = 0; i < N::lanes; ++i) {
      if (begins || lanes.ones) {
        for (int n = 0; n < actives; ++n) {
          const int k = active[n];
          lanes.base[k][lanes.runs] = offset[k] + segment * segment_steps * views[k].step;
        }
        lanes.start[lanes.runs++] = i;
      }
      if (segment == edge_segment) {
        lanes.edge_low = min(lanes.edge_low, i);
        lanes.edge_high = i + 1;
      }
      begins = true;  // behind the last chain, it is repeated
      if (i + 1 >= lanes.count) continue;
      begins = index[last] + 1 == problem.shape[last];
      for (int d = problem.rank - 1; d >= 0; --d) {  // the next chain
        if (d == problem.axis) continue;
        const int64_t back = ++index[d] < problem.shape[d] ? 0 : index[d];
        for (int n = 0; n < actives; ++n) {
          offset[active[n]] += (1 - back) * strides[active[n]][d];
        }
        if (!back) break;
        index[d] = 0;
      }
      if (++chain == chains) {
        chain = 0;
        ++segment;
      }
    }
    lanes.start[lanes.runs] = N::lanes;
  }

  // Steps [first, last) of a group. `local_edge`: the step, counted like these, that h0 precedes in
  // lanes [edge_low, edge_high). What is in scratch.carry and .extra goes on from there.
  template <bool reduce, Decay decay_mode, bool with_resets>
  void advance(const Lanes& lanes, int64_t first, int64_t last, int64_t local_edge,
               Scratch<D>& scratch, Wide* item_sums) const {
    constexpr bool reads_before = kind == Kind::tangent || (!reduce && decay_mode != Decay::none);
    constexpr bool writes = !reduce;
    const int64_t width = lanes.width;
    const int64_t reals = width * N::parts;

    // Which operands are read or written in place, which as a tile, which as one row for all steps.
    bool in_place[kOperands] = {}, row[kOperands] = {};
    bool needs_tile = with_resets;
    for (int i = 0; i < kState; ++i) {
      const auto k = static_cast<Operand>(i);
      if (!views[k].data || k == kReset) continue;
      in_place[k] = !D::converts && contiguous(lanes, k, views[k].stride);
      if (k == kDecay) in_place[k] = in_place[k] && !shared_decay;
      if (in_place[k]) continue;
      if (views[k].step == 0 && k != kOut && k != kDecay && k != kBefore) {
        row[k] = true;
        pack<D>(scratch.tiles[k], lanes, k, views[k], 0, 1);
      } else if (!(k == kDecay && decay_mode == Decay::sum)) {
        needs_tile = true;
      }
    }
    const int64_t most = needs_tile ? max(1, kTile / width) : kDirectSteps;

    for (int64_t s = first; s < last;) {
      int64_t count = min(most, last - s);
      const bool at_edge = reads_before && s == local_edge;
      if (reads_before && s <= local_edge && local_edge < s + count) {
        count = at_edge ? 1 : local_edge - s;
      }
      Loop<N> loop{};
      auto read = [&](Operand k, const R*& pointer, int64_t& step_reals) {
        if (row[k]) {
          pointer = reinterpret_cast<const R*>(scratch.tiles[k]);
          step_reals = 0;
        } else if (in_place[k]) {
          const auto* data = reinterpret_cast<const Stored*>(views[k].data);
          pointer = reinterpret_cast<const R*>(data + lanes.base[k][0] + s * views[k].step);
          step_reals = views[k].step * N::parts;
        } else {
          pack<D>(scratch.tiles[k], lanes, k, views[k], s, count);
          pointer = reinterpret_cast<const R*>(scratch.tiles[k]);
          step_reals = reals;
        }
      };
      auto write = [&](Operand k, R*& pointer, int64_t& step_reals) {
        if (in_place[k]) {
          auto* data = reinterpret_cast<Stored*>(views[k].data);
          pointer = reinterpret_cast<R*>(data + lanes.base[k][0] + s * views[k].step);
          step_reals = views[k].step * N::parts;
        } else {
          pointer = reinterpret_cast<R*>(scratch.tiles[k]);
          step_reals = reals;
        }
      };
      read(kA, loop.a, loop.a_step);
      read(kDrive, loop.drive, loop.drive_step);
      if constexpr (kind == Kind::tangent) read(kTangent, loop.tangent, loop.tangent_step);
      if constexpr (reads_before) {
        if (at_edge) {
          pack_edge(scratch.tiles[kBefore], lanes, s);
          loop.before = reinterpret_cast<const R*>(scratch.tiles[kBefore]);
          loop.before_step = reals;
        } else {
          read(kBefore, loop.before, loop.before_step);
        }
      }
      if constexpr (with_resets) {
        auto* drop = reinterpret_cast<typename N::Bits*>(scratch.tiles[kReset]);
        pack_drop(drop, lanes, s, count);
        loop.drop = drop;
        loop.drop_step = reals;
      }
      if constexpr (writes) {
        write(kOut, loop.out, loop.out_step);
        if constexpr (decay_mode == Decay::store) write(kDecay, loop.d_decay, loop.d_decay_step);
      }
      if constexpr (!reduce && decay_mode == Decay::sum) {
        std::memset(scratch.extra, 0, width * sizeof(Wide));
      }
      loop_over_time<N, kind, decay_mode, reduce, with_resets>(
          loop, count, reals, reinterpret_cast<R*>(scratch.carry),
          reinterpret_cast<R*>(scratch.extra));
      if constexpr (writes) {
        if (!in_place[kOut]) unpack<D>(scratch.tiles[kOut], lanes, kOut, views[kOut], s, count);
        if constexpr (decay_mode == Decay::store) {
          if (shared_decay) {
            accumulate<D>(scratch.tiles[kDecay], lanes, kDecay, views[kDecay], s, count,
                          item_sums + sums_begin());
          } else if (!in_place[kDecay]) {
            unpack<D>(scratch.tiles[kDecay], lanes, kDecay, views[kDecay], s, count);
          }
        } else if constexpr (decay_mode == Decay::sum) {
          accumulate<D>(scratch.extra, lanes, kDecay, views[kDecay], s, 1, item_sums);
        }
      }
      s += count;
    }
  }

  // Sums lie as da does, whose first step in processing order may be its last in memory.
  int64_t sums_begin() const {
    return (views[kDecay].data - static_cast<char*>(problem.d_decay.data)) /
           int64_t(sizeof(Stored));
  }

  // h_{t-1} at the step that h0 precedes in some of the lanes.
  void pack_edge(Wide* tile, const Lanes& lanes, int64_t s) const {
    const auto* h = reinterpret_cast<const Stored*>(views[kBefore].data);
    const auto* h0 = reinterpret_cast<const Stored*>(views[kH0].data);
    for (int r = 0; r < lanes.runs; ++r) {
      for (int64_t i = lanes.start[r]; i < lanes.start[r + 1]; ++i) {
        const int64_t within = i - lanes.start[r];
        const bool first = lanes.edge_low <= i && i < lanes.edge_high;
        const Stored* from = first ? h0 + lanes.base[kH0][r] + within * views[kH0].stride
                                   : h + lanes.base[kBefore][r] + within * views[kBefore].stride +
                                         s * views[kBefore].step;
        tile[i] = D::widen(*from);
      }
    }
  }

  void pack_drop(typename N::Bits* drop, const Lanes& lanes, int64_t first, int64_t count) const {
    using Bits = typename N::Bits;
    const View& view = views[kReset];
    const auto* flags = reinterpret_cast<const uint8_t*>(view.data);
    const int64_t reals = lanes.width * N::parts;
    for (int r = 0; r < lanes.runs; ++r) {
      const uint8_t* from = flags + lanes.base[kReset][r] + first * view.step;
      const int64_t length = lanes.start[r + 1] - lanes.start[r];
      for (int64_t s = 0; s < count; ++s, from += view.step) {
        Bits* to = drop + s * reals + lanes.start[r] * N::parts;
        if (view.stride == 0) {
          const Bits bits = -static_cast<Bits>(*from != 0);
          for (int64_t i = 0; i < length * N::parts; ++i) to[i] = bits;
        } else {
          for (int64_t i = 0; i < length; ++i) {
            const Bits bits = -static_cast<Bits>(from[i] != 0);
            for (int p = 0; p < N::parts; ++p) to[i * N::parts + p] = bits;
          }
        }
      }
    }
  }

  template <bool reduce>
  void dispatch(const Lanes& lanes, int64_t first, int64_t last, int64_t local_edge,
                Scratch<D>& scratch, Wide* item_sums) const {
    auto go = [&](auto tag, auto flag) {
      advance<reduce, decltype(tag)::value, decltype(flag)::value>(lanes, first, last, local_edge,
                                                                   scratch, item_sums);
    };
    auto with = [&](auto tag) {
      if (resets) go(tag, Constant<bool, true>{}); else go(tag, Constant<bool, false>{});
    };
    if constexpr (kind == Kind::transpose && !reduce) {
      if (decay == Decay::store) return with(Constant<Decay, Decay::store>{});
      if (decay == Decay::sum) return with(Constant<Decay, Decay::sum>{});
    }
    with(Constant<Decay, Decay::none>{});
  }
  template <class X, X x>
  struct Constant {
    static constexpr X value = x;
  };

  // A group from the state that it starts with to its last step, or to its map.
  void whole(const Lanes& lanes, int64_t first, int64_t last, int64_t local_edge,
             Scratch<D>& scratch, Sums<Wide> sums) const {
    if (carries) {
      load_carry(lanes, carries, scratch);
    } else if (views[kState].data) {
      pack<D>(scratch.carry, lanes, kState, views[kState], 0, 1);
    } else {
      std::memset(scratch.carry, 0, lanes.width * sizeof(Wide));
    }
    dispatch<false>(lanes, first, last, local_edge, scratch, sums.decay);
    if (lasts) std::memcpy(lasts + lanes.id, scratch.carry, lanes.count * sizeof(Wide));
    if (kind == Kind::transpose && ends) {
      if (shared_state) {
        accumulate<D>(scratch.carry, lanes, kDState, views[kDState], 0, 1, sums.state);
      } else {
        unpack<D>(scratch.carry, lanes, kDState, views[kDState], 0, 1);
      }
    }
  }

  void load_carry(const Lanes& lanes, const Wide* from, Scratch<D>& scratch) const {
    std::memcpy(scratch.carry, from + lanes.id, lanes.count * sizeof(Wide));
    for (int64_t i = lanes.count; i < lanes.width; ++i) {
      scratch.carry[i] = scratch.carry[lanes.count - 1];
    }
  }

  // P and B of a segment, from the carry 0 and the product 1.
  void reduced(const Lanes& lanes, int64_t first, int64_t last, int64_t local_edge,
               Scratch<D>& scratch, Wide* product, Wide* carry) const {
    if constexpr (N::parts == 1 && !D::converts && kind != Kind::tangent) {
      const int64_t step = views[kA].step;
      if (lanes.ones && !resets && step == views[kDrive].step && (step == 1 || step == -1)) {
        const auto* a = reinterpret_cast<const R*>(views[kA].data) + first * step;
        const auto* drive = reinterpret_cast<const R*>(views[kDrive].data) + first * step;
        const auto reduce = step == 1 ? reduce_lane<N, kind, false> : reduce_lane<N, kind, true>;
        for (int64_t i = 0; i < lanes.count; ++i) {
          reduce(a + lanes.base[kA][i], drive + lanes.base[kDrive][i], last - first,
                 product[lanes.id + i], carry[lanes.id + i]);
        }
        return;
      }
    }
    std::memset(scratch.carry, 0, lanes.width * sizeof(Wide));
    auto* ones = reinterpret_cast<R*>(scratch.extra);
    for (int64_t i = 0; i < lanes.width * N::parts; ++i) ones[i] = i % N::parts ? R(0) : R(1);
    dispatch<true>(lanes, first, last, local_edge, scratch, nullptr);
    std::memcpy(carry + lanes.id, scratch.carry, lanes.count * sizeof(Wide));
    std::memcpy(product + lanes.id, scratch.extra, lanes.count * sizeof(Wide));
  }
};

// P c + B of one chain, and whether that is what the recurrence gives: all of it is finite, and where
// P has underflowed, P c is too small to count beside B.
template <class D>
bool apply_map(typename D::Wide product, typename D::Wide carry, typename D::Wide& state) {
  using N = typename D::N;
  using R = typename N::R;
  R p[2] = {}, b[2] = {}, c[2] = {};
  std::memcpy(p, &product, sizeof product);
  std::memcpy(b, &carry, sizeof carry);
  std::memcpy(c, &state, sizeof state);
  bool good = D::finite(product) && D::finite(carry) && D::finite(state);
  constexpr R tiny = sizeof(R) == 4 ? R(0x1p-126) : R(0x1p-1022);
  constexpr R unit = sizeof(R) == 4 ? R(0x1p-24) : R(0x1p-53);
  const auto size = [](const R(&x)[2]) { return max(x[0] < 0 ? -x[0] : x[0], x[1] < 0 ? -x[1] : x[1]); };
  if (size(p) < tiny && size(c) > 1 && tiny * size(c) > unit * size(b)) good = false;
  R next[2] = {p[0] * c[0] - p[1] * c[1] + b[0], p[0] * c[1] + p[1] * c[0] + b[1]};
  std::memcpy(&state, next, sizeof state);
  return good && D::finite(state);
}

}  // namespace
}  // namespace KERNEL_NAMESPACE
}  // namespace rnnscan
