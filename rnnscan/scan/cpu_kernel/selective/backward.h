// The cotangents of the selective scan, tile by tile from the end.
//
// The states of a tile are computed again from the one that was kept before it; then, back through
// its steps, with q the cotangent that flows into a state from behind, l its whole cotangent:
//
//   l = g c + q      dc = sum_channels g h            z = l (da / d(delta A)) h_before
//   q = a l          db = sum_channels delta x l      dA += delta z
//                    dx = delta sum_n l b + D g       ddelta = x sum_n l b + sum_n A z

#pragma once

#include "selective/lanes.h"
#include "selective/layout.h"

namespace rnnscan {
namespace KERNEL_NAMESPACE {
namespace {  // nothing here may be shared with another instruction set

constexpr int64_t kChunk = 8;  // blocks whose tile is in a cache at once

// total + error += x: the sums of very many tiles do not drift.
INLINE void add_exactly(float* total, float* error, V x) {
  const V old = load<V>(total), more = x - load<V>(error), sum = old + more;
  store(error, (sum - old) - more);
  store(total, sum);
}

struct Backward {
  const Layout& in;
  float *d_b, *d_c;         // (parts, B, T, N)
  float *d_rates, *d_skip, *d_bias;  // (B, C, R), (B, C), (B, C)
  const SelectiveProblem& p = in.p;
  const int64_t N = in.N, R = in.R, tile = in.tile;

  // A chunk's blocks in a tile.
  struct Tile {
    float *delta, *drive, *g, *powers, *sum_lb, *sum_az;  // [block][step][lane]
    float *before, *power, *d_b, *d_c;                    // [step][state of the group][lane]
  };
  // A part's blocks over all time: [block][state][lane].
  struct Carried {
    float *decays, *rates, *most, *q, *d_rates, *error, *d_skip, *skip_error, *d_bias,
        *bias_error;
  };

  int64_t scratch() const {
    const int64_t blocks = in.most_blocks(), carried = blocks * (N + 4 * R + 5);
    return (carried + (6 * min(kChunk, blocks) + 4 * kGroup) * tile) * L;
  }

  template <bool signs>
  void run(int64_t row, int64_t part, float* memory) const {
    const int64_t begin = in.part_begin(part), end = in.part_begin(part + 1), n = end - begin;
    const auto take = [&](int64_t vectors) {
      float* taken = memory;
      memory += vectors * L;
      return taken;
    };
    const auto zeros = [&](int64_t vectors) {
      float* taken = take(vectors);
      std::memset(taken, 0, vectors * L * sizeof(float));
      return taken;
    };
    Carried carried;
    carried.decays = take(n * R);
    carried.rates = take(n * R);
    carried.most = take(n);
    carried.q = take(n * N);
    carried.d_rates = zeros(n * R);
    carried.error = zeros(n * R);
    carried.d_skip = zeros(n);
    carried.skip_error = zeros(n);
    carried.d_bias = zeros(n);
    carried.bias_error = zeros(n);
    Tile work;
    const int64_t chunk = min(kChunk, n);
    work.delta = take(chunk * tile);
    work.drive = take(chunk * tile);
    work.g = take(chunk * tile);
    work.powers = take(chunk * tile);
    work.sum_lb = take(chunk * tile);
    work.sum_az = take(chunk * tile);
    work.before = take(kGroup * tile);
    work.power = take(kGroup * tile);
    work.d_b = take(kGroup * tile);
    work.d_c = take(kGroup * tile);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t block = begin + i, channels = in.channels_of(block);
      float* decays = carried.decays + i * R * L;
      to_lanes(decays, in.rates_at(row, block), channels, R, R);
      store(carried.most + i * L, to_rates(carried.rates + i * R * L, decays, R));
      to_lanes(carried.q + i * N * L, p.g_last + in.states_at(row, block, N), channels, N, N);
    }
    for (int64_t t = in.tiles - 1; t >= 0; --t) {
      for (int64_t from = 0; from < n; from += chunk) {
        one_tile<signs>(row, part, t * tile, begin, from, min(from + chunk, n), carried, work);
      }
    }
    for (int64_t i = 0; i < n; ++i) {
      const int64_t block = begin + i, channels = in.channels_of(block);
      from_lanes(p.d_h0 + in.states_at(row, block, N), carried.q + i * N * L, channels, N);
      from_lanes(d_rates + in.states_at(row, block, R), carried.d_rates + i * R * L, channels, R);
      if (p.d) {
        store_some(d_skip + in.states_at(row, block, 1), load<V>(carried.d_skip + i * L), channels);
      }
      if (p.bias) {
        store_some(d_bias + in.states_at(row, block, 1), load<V>(carried.d_bias + i * L), channels);
      }
    }
  }

  template <bool signs>
  void one_tile(int64_t row, int64_t part, int64_t first, int64_t begin, int64_t from, int64_t to,
                Carried carried, Tile work) const {
    const Steps steps = in.steps(row, first);
    const int64_t width = tile * L;
    bool mild[kChunk];
    for (int64_t i = from; i < to; ++i) {
      const int64_t k = i - from, block = begin + i;
      mild[k] = load_drive(in, row, first, steps.count, block, load<V>(carried.most + i * L),
                           work.delta + k * width, work.drive + k * width);
      for (int64_t s = 0; s < steps.count; ++s) {
        const int64_t at = in.channel_at(row, first + s, block);
        __builtin_prefetch(p.g_y + at - in.forward(tile * in.C));
        store(work.g + k * width + s * L, load_some(p.g_y + at, in.channels_of(block)));
        store(work.sum_lb + k * width + s * L, V{});
        store(work.sum_az + k * width + s * L, V{});
      }
      if (in.shared) {
        fill_powers(work.powers + k * width, work.delta + k * width,
                    load<V>(carried.rates + i * L), steps.count);
      }
    }
    int64_t n = 0;
    for (; n + kGroup <= N; n += kGroup) {
      group<kGroup, signs>(row, part, first, begin, from, to, n, steps, mild, carried, work);
    }
    for (; n < N; ++n) {
      group<1, signs>(row, part, first, begin, from, to, n, steps, mild, carried, work);
    }
    for (int64_t i = from; i < to; ++i) {
      finish(row, first, steps, begin, i, i - from, carried, work);
    }
  }

  // G states of a chunk's blocks, there and back.
  template <int G, bool signs>
  void group(int64_t row, int64_t part, int64_t first, int64_t begin, int64_t from, int64_t to,
             int64_t n, Steps steps, const bool* mild, Carried carried,
             Tile work) const {
    std::memset(work.d_b, 0, steps.count * G * L * sizeof(float));
    std::memset(work.d_c, 0, steps.count * G * L * sizeof(float));
    for (int64_t i = from; i < to; ++i) {
      const int64_t k = i - from, block = begin + i, at = k * tile * L;
      float start[G * L];
      const float* kept = p.kept + in.states_at(row * in.tiles + first / tile, block, N) + n;
      to_lanes(start, kept, in.channels_of(block), N, G);
      float* q = carried.q + (i * N + n) * L;
      const int64_t rate = (i * R + (in.shared ? 0 : n)) * L;
      const float* rates = carried.rates + rate;
      if (in.shared) {
        states_again<G, Power::given, signs>(steps, n, start, work.powers + at, rates, at, work);
        back<G, true, signs>(steps, n, q, nullptr, nullptr, nullptr, work.powers + at, at, work);
      } else {
        if (mild[k]) {
          states_again<G, Power::mild, signs>(steps, n, start, work.delta + at, rates, at, work);
        } else {
          states_again<G, Power::any, signs>(steps, n, start, work.delta + at, rates, at, work);
        }
        back<G, false, signs>(steps, n, q, carried.decays + rate, carried.d_rates + rate,
                              carried.error + rate, nullptr, at, work);
      }
    }
    // Over channels: the lanes of what the blocks have added up.
    for (int64_t s = 0; s < steps.count; ++s) {
      const int64_t out = ((part * in.B + row) * in.T + in.place(first + s)) * N + n;
      add_lanes<G>(d_b + out, work.d_b + s * G * L, from == 0);
      add_lanes<G>(d_c + out, work.d_c + s * G * L, from == 0);
    }
  }

  // Writes e and the state before each step; adds g h to dc.
  template <int G, Power power, bool signs>
  static void states_again(Steps steps, int64_t n, const float* start, const float* delta,
                           const float* rates, int64_t at, Tile work) {
    V h[G], rate[G] = {};
    for (int k = 0; k < G; ++k) {
      h[k] = load<V>(start + k * L);
      if (power != Power::given) rate[k] = load<V>(rates + k * L);
    }
    const float *b = steps.b + n, *drive = work.drive + at, *g = work.g + at;
    float *before = work.before, *e = work.power, *d_c = work.d_c;
    for (int64_t s = 0; s < steps.count; ++s, b += steps.row) {
      const V step = load<V>(delta + s * L), u = load<V>(drive + s * L), gy = load<V>(g + s * L);
      V p[G];
#pragma GCC unroll 4
      for (int k = 0; k < G; ++k) {
        const int64_t i = (s * G + k) * L;
        p[k] = power_of<power>(step, rate[k]);
        store(before + i, h[k]);
        if (power != Power::given) store(e + i, p[k]);
      }
      if (__builtin_expect(steps.forgets(s), 0)) {
#pragma GCC unroll 4
        for (int k = 0; k < G; ++k) h[k] = u * b[k];
      } else {
#pragma GCC unroll 4
        for (int k = 0; k < G; ++k) h[k] = decay_of<signs>(p[k]) * h[k] + rounded(u * b[k]);
      }
#pragma GCC unroll 4
      for (int k = 0; k < G; ++k) {
        float* sum = d_c + (s * G + k) * L;
        store(sum, load<V>(sum) + gy * h[k]);
      }
    }
  }

  // From the last step to the first. Where e is shared, sum_az is the sum of z alone.
  template <int G, bool shared, bool signs>
  static void back(Steps steps, int64_t n, float* flowing, const float* decays,
                   float* d_rates, float* error, const float* powers, int64_t at,
                   Tile work) {
    V q[G], l[G], a[G] = {}, da[G] = {};
    for (int k = 0; k < G; ++k) {
      q[k] = load<V>(flowing + k * L);
      if (!shared) a[k] = load<V>(decays + k * L);
    }
    const float *b = steps.b + n, *c = steps.c + n;
    const float *drive = work.drive + at, *g = work.g + at, *delta = work.delta + at;
    for (int64_t s = steps.count - 1; s >= 0; --s) {
      const float *bs = b + s * steps.row, *cs = c + s * steps.row;
      const V u = load<V>(drive + s * L), gy = load<V>(g + s * L), step = load<V>(delta + s * L);
      V lb = load<V>(work.sum_lb + at + s * L), az = load<V>(work.sum_az + at + s * L);
#pragma GCC unroll 4
      for (int k = 0; k < G; ++k) {
        float* sum = work.d_b + (s * G + k) * L;
        l[k] = gy * cs[k] + q[k];
        store(sum, load<V>(sum) + u * l[k]);
        lb += l[k] * bs[k];
      }
      if (__builtin_expect(steps.forgets(s), 0)) {
#pragma GCC unroll 4
        for (int k = 0; k < G; ++k) q[k] = V{};
      } else {
#pragma GCC unroll 4
        for (int k = 0; k < G; ++k) {
          const int64_t i = (s * G + k) * L;
          const V e = shared ? load<V>(powers + s * L) : load<V>(work.power + i);
          q[k] = decay_of<signs>(e) * l[k];
          const V z = (signs ? 2 * (e * l[k]) : q[k]) * load<V>(work.before + i);
          if (shared) {
            az += z;
          } else {
            az += a[k] * z;
            da[k] += step * z;
          }
        }
      }
      store(work.sum_lb + at + s * L, lb);
      store(work.sum_az + at + s * L, az);
    }
    for (int k = 0; k < G; ++k) {
      store(flowing + k * L, q[k]);
      if (!shared) add_exactly(d_rates + k * L, error + k * L, da[k]);
    }
  }

  // dx, ddelta, and what D and a shared A gain.
  void finish(int64_t row, int64_t first, Steps steps, int64_t begin, int64_t i, int64_t k,
              Carried carried, Tile work) const {
    const int64_t block = begin + i, n = in.channels_of(block);
    const V skip = in.skip_at(row, block);
    const V decay = load<V>(carried.decays + i * R * L);
    const V bias = in.bias_at(row, block);
    V d_decay{}, d_skip{}, d_bias{};
    for (int64_t s = 0; s < steps.count; ++s) {
      const int64_t at = in.channel_at(row, first + s, block), here = (k * tile + s) * L;
      const V x = load_some(p.x + at, n), delta = load<V>(work.delta + here);
      const V g = load<V>(work.g + here), lb = load<V>(work.sum_lb + here);
      V az = load<V>(work.sum_az + here);
      if (in.shared) {
        d_decay += delta * az;
        az *= decay;
      }
      V dx = delta * lb;
      if (p.d) {
        dx += skip * g;
        d_skip += g * x;
      }
      store_some(p.d_x + at, dx, n);
      V d_delta = x * lb + az;
      if (p.softplus) d_delta *= softplus_slope(load_some(p.delta + at, n) + bias);
      d_bias += d_delta;
      store_some(p.d_delta + at, d_delta, n);
    }
    if (in.shared) add_exactly(carried.d_rates + i * L, carried.error + i * L, d_decay);
    if (p.bias) add_exactly(carried.d_bias + i * L, carried.bias_error + i * L, d_bias);
    if (p.d) add_exactly(carried.d_skip + i * L, carried.skip_error + i * L, d_skip);
  }
};

}  // namespace
}  // namespace KERNEL_NAMESPACE
}  // namespace rnnscan
