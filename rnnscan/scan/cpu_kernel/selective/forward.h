// The selective scan itself: h = a h + delta x b, y = h c + D x.

#pragma once

#include "selective/lanes.h"
#include "selective/layout.h"

namespace rnnscan {
namespace KERNEL_NAMESPACE {
namespace {  // nothing here may be shared with another instruction set

struct Forward {
  const Layout& in;
  const SelectiveProblem& p = in.p;
  const int64_t N = in.N, R = in.R, tile = in.tile;

  int64_t scratch() const { return (in.most_blocks() * (N + R + 1) + 4 * tile) * L; }

  // Some blocks of a row, all steps.
  template <bool signs>
  void run(int64_t row, int64_t begin, int64_t end, float* memory) const {
    float* delta = memory;
    float *drive = delta + tile * L, *y = drive + tile * L, *powers = y + tile * L;
    float *most = powers + tile * L, *rates = most + (end - begin) * L;
    float* states = rates + (end - begin) * R * L;
    for (int64_t block = begin; block < end; ++block) {
      const int64_t i = block - begin, channels = in.channels_of(block);
      to_lanes(rates + i * R * L, in.rates_at(row, block), channels, R, R);
      store(most + i * L, to_rates(rates + i * R * L, rates + i * R * L, R));
      to_lanes(states + i * N * L, p.h0 + in.states_at(row, block, N), channels, N, N);
    }
    for (int64_t first = 0; first < in.T; first += tile) {
      const Steps steps = in.steps(row, first);
      for (int64_t block = begin; block < end; ++block) {
        const int64_t i = block - begin, channels = in.channels_of(block);
        const float* rate = rates + i * R * L;
        float* h = states + i * N * L;
        if (p.keep) {
          float* to = p.to_keep + in.states_at(row * in.tiles + first / tile, block, N);
          from_lanes(to, h, channels, N);
        }
        const bool mild = load_drive(in, row, first, steps.count, block, load<V>(most + i * L),
                                     delta, drive);
        for (int64_t s = 0; s < steps.count; ++s) store(y + s * L, V{});
        if (in.shared) {
          fill_powers(powers, delta, load<V>(rate), steps.count);
          all_states<Power::given, signs>(steps, powers, drive, y, rate, h);
        } else if (mild) {
          all_states<Power::mild, signs>(steps, delta, drive, y, rate, h);
        } else {
          all_states<Power::any, signs>(steps, delta, drive, y, rate, h);
        }
        const V skip = in.skip_at(row, block);
        for (int64_t s = 0; s < steps.count; ++s) {
          const int64_t at = in.channel_at(row, first + s, block);
          V sum = load<V>(y + s * L);
          if (p.d) sum += skip * load_some(p.x + at, channels);
          store_some(p.y + at, sum, channels);
        }
      }
    }
    for (int64_t block = begin; block < end; ++block) {
      const int64_t i = block - begin;
      from_lanes(p.last + in.states_at(row, block, N), states + i * N * L, in.channels_of(block),
                 N);
    }
  }

  template <Power power, bool signs>
  void all_states(Steps steps, const float* delta, const float* drive, float* y,
                  const float* rate, float* h) const {
    int64_t n = 0;
    for (; n + kGroup <= N; n += kGroup) {
      group<kGroup, power, signs>(steps, n, delta, drive, y, rate + n * L, h + n * L);
    }
    for (; n < N; ++n) {
      group<1, power, signs>(steps, n, delta, drive, y, rate + n * L, h + n * L);
    }
  }

  // G states of a block through a tile. `delta` is e where that is given.
  template <int G, Power power, bool signs>
  static void group(Steps steps, int64_t n, const float* delta, const float* drive,
                    float* y, const float* rates, float* states) {
    V h[G], rate[G] = {};
    for (int g = 0; g < G; ++g) {
      h[g] = load<V>(states + g * L);
      if (power != Power::given) rate[g] = load<V>(rates + g * L);
    }
    const float *b = steps.b + n, *c = steps.c + n;
    for (int64_t s = 0; s < steps.count; ++s, b += steps.row, c += steps.row) {
      const V step = load<V>(delta + s * L), u = load<V>(drive + s * L);
      V sum = load<V>(y + s * L);
      if (__builtin_expect(steps.forgets(s), 0)) {
#pragma GCC unroll 4
        for (int g = 0; g < G; ++g) h[g] = u * b[g];
      } else {
#pragma GCC unroll 4
        for (int g = 0; g < G; ++g) {
          const V a = decay_of<signs>(power_of<power>(step, rate[g]));
          h[g] = a * h[g] + rounded(u * b[g]);
        }
      }
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g) sum += h[g] * c[g];
      store(y + s * L, sum);
    }
    for (int g = 0; g < G; ++g) store(states + g * L, h[g]);
  }
};

}  // namespace
}  // namespace KERNEL_NAMESPACE
}  // namespace rnnscan
