// How the selective scan is divided, and what its loops over time read.
//
// The lanes of a vector are channels: L of them, a *block*, with all their states. Time is divided
// into *tiles*, whose operands stay in a cache while all states of a block pass through them, a
// *group* of states at a time, in registers.

#pragma once

#include "selective/exponential.h"
#include "selective/problem.h"
#include "selective/times.h"

namespace rnnscan {
namespace KERNEL_NAMESPACE {
namespace {  // nothing here may be shared with another instruction set

constexpr int64_t kTile = 64;  // steps, where the caller does not say
constexpr int kGroup = 4;      // states

// Where e = exp(delta A) is from: computed, with |delta A| known to be small or not, or read, as
// where all states of a channel share it.
enum class Power { mild, any, given };

// The steps of a tile in scan order: b and c of the first one, and whether it forgets. Passed by
// value, as a compiler must suppose that what it stores may change what it has a pointer to.
struct Steps {
  int64_t count;
  const float *b, *c;
  int64_t row;  // from one step to the next
  const uint8_t* forget;
  int64_t forget_row;

  bool forgets(int64_t s) const { return forget[s * forget_row]; }
};

struct Layout {
  const SelectiveProblem& p;
  const int64_t B = p.batch, T = p.steps, C = p.channels, N = p.states, R = p.rate_states;
  const int64_t blocks = ceil_div(C, L);
  const bool shared = R == 1 && N > 1;  // one e for all states
  const int64_t tile = min(T, p.keep || p.backward ? p.every : kTile);
  const int64_t tiles = ceil_div(T, tile);
  int64_t parts = 1;  // of the blocks, for different threads

  explicit Layout(const SelectiveProblem& problem, int64_t threads) : p(problem) {
    // Rows of the batch are divided first; blocks too where that leaves threads without work. Each
    // part has a db and a dc of its own, which are to stay of the size of x.
    const int64_t room = p.backward ? max(1, 8 * C / N) : blocks;
    int64_t least = 0;
    for (int64_t n = 1; n <= min(min(blocks, room), threads); ++n) {
      const int64_t time = ceil_div(B * n, threads) * ceil_div(blocks, n);
      if (n == 1 || time < least) {
        least = time;
        parts = n;
      }
    }
  }

  int64_t part_begin(int64_t part) const { return blocks * part / parts; }
  int64_t most_blocks() const { return ceil_div(blocks, parts); }  // of a part
  int64_t channels_of(int64_t block) const { return min(L, C - block * L); }

  int64_t place(int64_t step) const { return p.reverse ? T - 1 - step : step; }
  int64_t forward(int64_t size) const { return p.reverse ? -size : size; }

  Steps steps(int64_t row, int64_t first) const {
    static const uint8_t never = 0;
    const int64_t at = row * T + place(first);
    return {min(tile, T - first),
            p.b + at * N,
            p.c + at * N,
            forward(N),
            p.reset ? p.reset + at : &never,
            p.reset ? forward(1) : 0};
  }

  // Of a block at a step: x, delta, y and their cotangents.
  int64_t channel_at(int64_t row, int64_t step, int64_t block) const {
    return (row * T + place(step)) * C + block * L;
  }
  // Of a row's (C, count) numbers, those of a block.
  int64_t states_at(int64_t row, int64_t block, int64_t count) const {
    return (row * C + block * L) * count;
  }
  const float* rates_at(int64_t row, int64_t block) const {
    return p.rates + states_at(p.rate_rows == 1 ? 0 : row, block, R);
  }
  // Of D or of the bias; zeros where there is none.
  V of_block(const float* from, int64_t rows, int64_t row, int64_t block) const {
    const int64_t at = (rows == 1 ? 0 : row) * C + block * L;
    return from ? load_some(from + at, channels_of(block)) : V{};
  }
  V skip_at(int64_t row, int64_t block) const { return of_block(p.d, p.skip_rows, row, block); }
  V bias_at(int64_t row, int64_t block) const { return of_block(p.bias, p.bias_rows, row, block); }
};

INLINE V size_of(V x) { return as_float(as_bits(x) & 0x7fffffff); }

INLINE bool all(M mask) {
  int32_t lanes[L], both = -1;
  __builtin_memcpy(lanes, &mask, sizeof mask);
  for (int i = 0; i < L; ++i) both &= lanes[i];
  return both;
}

// rates[n] = A_n log2(e); the greatest size of them.
INLINE V to_rates(float* rates, const float* decays, int64_t count) {
  V most{};
  for (int64_t n = 0; n < count; ++n) {
    for (int i = 0; i < L; ++i) rates[n * L + i] = rate_of(decays[n * L + i]);
    const V size = size_of(load<V>(rates + n * L));
    most = size <= most ? most : size;  // nan is passed on, and is not mild
  }
  return most;
}

// The times and these times x of a block in a tile; returns whether |delta rate| < kMild throughout.
INLINE bool load_drive(const Layout& in, int64_t row, int64_t first, int64_t count, int64_t block,
                       V most, float* delta, float* drive) {
  const int64_t n = in.channels_of(block), at = in.channel_at(row, first, block);
  const int64_t next = in.forward(in.C), ahead = next * (in.p.backward ? -in.tile : in.tile);
  const float *deltas = in.p.delta + at, *x = in.p.x + at;
  const V bias = in.bias_at(row, block);
  M mild = M{} - 1;
  for (int64_t s = 0; s < count; ++s, deltas += next, x += next) {
    __builtin_prefetch(deltas + ahead);  // rows lie apart: the hardware does not foresee them
    __builtin_prefetch(x + ahead);
    V step = load_some(deltas, n);
    if (in.p.softplus) step = softplus(step + bias);
    mild &= size_of(step) * most < same(kMild);
    store(delta + s * L, step);
    store(drive + s * L, step * load_some(x, n));
  }
  return all(mild);
}

template <Power power>
INLINE V power_of(V delta, V rate) {
  if constexpr (power == Power::given) return delta;
  if constexpr (power == Power::mild) return mild_exponential(delta, rate);
  return exponential(delta, rate);
}

// e of all steps, where it is one for all states.
INLINE void fill_powers(float* powers, const float* delta, V rate, int64_t count) {
  for (int64_t s = 0; s < count; ++s) {
    store(powers + s * L, exponential(load<V>(delta + s * L), rate));
  }
}

// A product that is rounded by itself: where a compiler may fuse either of two products with their
// sum, a state would otherwise depend on which, and so on what else is in its tile.
INLINE V rounded(V product) {
#if defined(__FMA__) && (defined(__GNUC__) || defined(__clang__))
  asm("" : "+v"(product));
#endif
  return product;
}

template <bool signs>
INLINE V decay_of(V power) {
  if constexpr (signs) return 2 * power - 1;
  return power;
}

}  // namespace
}  // namespace KERNEL_NAMESPACE
}  // namespace rnnscan
