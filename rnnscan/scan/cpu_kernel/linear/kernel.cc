// Elementwise linear recurrences at the speed of memory, compiled once per instruction set.
//
// A step depends on the one before it, so what fills a vector are chains that do not depend on each
// other: *lanes*. Everything is one loop over time, vectorised over lanes, that never leaves the
// order in which the data lie:
//
//   wide    the axes behind time hold at least one vector: lanes are runs of them, read where they
//           are.
//   narrow  they do not (time is last, say): a tile of some steps by one vector of lanes is packed
//           into the first-level cache (transposed in registers where time is contiguous), computed
//           there, and unpacked.
//
// Whatever broadcasts, is half-precision or flagged is packed into such tiles as well; what can be
// read in place is. So one loop serves all layouts and types.
//
// Where there are fewer lanes than would fill all threads (narrow: all vectors of all threads), time
// is split into segments. Each segment is first reduced to the map (P, B): c -> P c + B of the carry
// that enters it (Blelloch 1990, section 1.4), the maps are applied one after another, and then every
// segment runs from the carry it really gets. Products of decays may overflow where the recurrence
// does not: then, and where anything is not finite, time is not split.
//
// "Processing order" is scan order forward and for the tangent, and its reverse for the transpose.
// An "element" is a number of the dtype; complex ones are pairs.

#include <time.h>

#include <cstdlib>
#include <cstring>
#include <new>

#include "linear/plan.h"
#include "linear/problem.h"

namespace rnnscan {
namespace KERNEL_NAMESPACE {

Kernel run;

namespace {

// Waits a moment for another thread: first in place, then in a way that gives it the core.
INLINE void pause(int64_t spins) {
  if (spins > 1000) {
    const timespec moment{0, 20000};
    nanosleep(&moment, nullptr);
  }
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <class D, Kind kind>
struct Run {
  using Wide = typename D::Wide;
  using P = Plan<D, kind>;
  static constexpr int64_t vector = P::N::lanes;

  P plan;
  const Pool& pool;
  int64_t bytes;  // that move, about
  int64_t threads;
  int64_t group_width = vector, groups, blocks = 1;  // blocks: groups of one place before time
  int64_t pieces;  // that work is divided into; each adds to sums of its own
  int64_t decay_sets = 0, state_sets = 0;
  Wide *decay_sums = nullptr, *state_sums = nullptr;
  Scratch<D>* scratches = nullptr;                   // one a thread

  Run(const Problem& problem, const Pool& p) : plan(problem), pool(p) {
    int64_t words = 0;  // for each step of each chain
    for (int k = 0; k < kState; ++k) words += plan.views[k].data && plan.views[k].step;
    bytes = plan.steps * plan.chains * words * int64_t(sizeof(typename D::Stored));
    threads = bytes < kSerialBytes ? 1 : min(p.threads, bytes / kThreadBytes);
    const int64_t elements = plan.steps * plan.chains;
    pieces = 8 * threads;  // some more than threads, lest one that is late delays all
    if (plan.shared_decay) {  // all sums together have b's size at most
      threads = min(threads, 1 + elements / problem.d_decay.size);
      pieces = threads;
    }
    if (plan.shared_state) pieces = max(threads, min(pieces, elements / problem.d_state.size));
  }

  bool run() {
    arrange();
    if (!allocate()) return release(false);
    if (plan.segments == 1 || !split()) over_all_groups();
    if (decay_sums) write_sums(plan.problem.d_decay, decay_sums, decay_sets);
    if (state_sums) write_sums(plan.problem.d_state, state_sums, state_sets);
    return release(true);
  }

  // Whether anything of a wide group will be packed.
  bool packs() const {
    if (D::converts || plan.resets || (plan.shared_decay && plan.decay == Decay::store)) return true;
    Lanes lanes;
    plan.wide_lanes(lanes, 0, 0, min(plan.inner, kDirectWidth));
    for (int k = 0; k < kState; ++k) {
      const View& view = plan.views[k];
      if (view.data && !contiguous(lanes, Operand(k), view.stride)) return true;
    }
    return false;
  }

  // How many lanes to a group, and in how many segments time is split.
  void arrange() {
    if (plan.wide) {
      const int64_t most = packs() ? kPackedWidth : kDirectWidth;
      blocks = ceil_div(plan.inner, most);
      if (plan.outer * blocks < threads) {
        const int64_t wanted = ceil_div(threads, plan.outer);
        blocks = max(blocks, min(wanted, plan.inner / (2 * vector)));
      }
      group_width = ceil_div(ceil_div(plan.inner, blocks), vector) * vector;
      blocks = ceil_div(plan.inner, group_width);
      groups = plan.outer * blocks;
      if (groups < threads && bytes >= kChainedBytes) {
        plan.segments = max(1, plan.steps * group_width * int64_t(sizeof(Wide)) / kSegmentBytes);
      }
    } else {
      groups = ceil_div(plan.chains, vector);
      if (groups < threads || plan.chains * 2 <= vector) {
        plan.segments = max(1, min(threads * vector / plan.chains, plan.steps / kShortest));
      }
      if (plan.segments > 1) {
        // Whole vectors, and an odd number of them: at a distance of a power of two, all lanes
        // would compete for the same few lines of a cache.
        const int64_t vectors = (plan.steps / plan.segments / vector - 1) | 1;
        plan.segment_steps = vectors * vector;
      }
    }
  }

  bool allocate() {
    void* memory = nullptr;
    if (posix_memalign(&memory, 64, threads * sizeof(Scratch<D>))) return false;
    scratches = static_cast<Scratch<D>*>(memory);
    // Which set a piece of work adds to depends on the shapes alone, so that sums repeat exactly.
    const bool chained = plan.wide && plan.segments > 1;
    if (plan.shared_decay) {
      decay_sets = !chained ? pieces : plan.views[kDecay].step ? groups : groups * plan.segments;
      decay_sums = new_sums(plan.problem.d_decay, decay_sets);
      if (!decay_sums) return false;
    }
    if (plan.shared_state) {
      state_sets = chained ? groups : pieces;
      state_sums = new_sums(plan.problem.d_state, state_sets);
      if (!state_sums) return false;
    }
    return true;
  }

  static Wide* new_sums(const Array& array, int64_t sets) {
    return static_cast<Wide*>(std::calloc(sets * array.size, sizeof(Wide)));
  }

  static void clear(const Array& array, Wide* sums, int64_t sets) {
    if (sums) std::memset(sums, 0, sets * array.size * sizeof(Wide));
  }

  Sums<Wide> set(int64_t decay_set, int64_t state_set) const {
    return {decay_sums ? decay_sums + decay_set * plan.problem.d_decay.size : nullptr,
            state_sums ? state_sums + state_set * plan.problem.d_state.size : nullptr};
  }

  bool release(bool good) {
    std::free(scratches);
    std::free(decay_sums);
    std::free(state_sums);
    return good;
  }

  // task(item, scratch) for each item; they are begun in order.
  template <class F>
  void parallel(int64_t items, F&& task) {
    if (threads == 1 || items == 1) {
      for (int64_t i = 0; i < items; ++i) task(i, scratches[0]);
      return;
    }
    struct Call {
      F& task;
      Scratch<D>* scratches;
    } call{task, scratches};
    pool.run(
        pool.self, threads, items,
        [](void* data, int64_t item, int64_t worker) {
          auto& call = *static_cast<Call*>(data);
          call.task(item, call.scratches[worker]);
        },
        &call);
  }

  // each(index, scratch, sums) for each index below count, several to an item.
  template <class F>
  void over(int64_t count, F&& each) {
    const int64_t items = min(count, pieces);
    parallel(items, [&](int64_t item, Scratch<D>& scratch) {
      for (int64_t i = count * item / items; i < count * (item + 1) / items; ++i) {
        each(i, scratch, set(item, item));
      }
    });
  }

  // The lanes of a wide group; a last piece narrower than a vector repeats lanes before it.
  template <class F>
  void each_wide(int64_t group, F&& body) {
    const int64_t place = group / blocks, low = group % blocks * group_width;
    const int64_t width = min(group_width, plan.inner - low);
    const int64_t even = width / vector * vector;
    Lanes lanes;
    for (int64_t at = 0; at < even;) {
      plan.wide_lanes(lanes, place, low + at, even - at);
      if (lanes.width % vector) {  // many short runs: whole vectors only
        plan.wide_lanes(lanes, place, low + at, lanes.width / vector * vector);
      }
      at += lanes.width;
      body(lanes);
    }
    if (even < width) {
      plan.wide_lanes(lanes, place, low + width - vector, vector);
      lanes.skip = vector - (width - even);
      body(lanes);
    }
  }

  // Every chain from its first step to its last.
  void over_all_groups() {
    over(groups, [&](int64_t group, Scratch<D>& scratch, Sums<Wide> sums) {
      if (plan.wide) {
        each_wide(group, [&](const Lanes& lanes) {
          plan.whole(lanes, 0, plan.steps, plan.edge, scratch, sums);
        });
      } else {
        Lanes lanes;
        plan.narrow_lanes(lanes, group * vector, plan.chains);
        plan.whole(lanes, 0, plan.steps, plan.edge, scratch, sums);
      }
    });
  }

  // What enters the first step of each chain.
  void first_carries(Wide* to) {
    if (!plan.views[kState].data) {
      std::memset(to, 0, plan.chains * sizeof(Wide));
      return;
    }
    const auto* state = reinterpret_cast<const typename D::Stored*>(plan.views[kState].data);
    for (int64_t chain = 0; chain < plan.chains; ++chain) {
      int64_t offset[kOperands] = {};
      plan.add_offsets(chain / plan.inner, 0, plan.problem.axis, offset);
      plan.add_offsets(chain % plan.inner, plan.problem.axis + 1, plan.problem.rank, offset);
      to[chain] = D::widen(state[offset[kState]]);
    }
  }

  // Time in segments; false where it has to be done without, and nothing has been summed then.
  bool split() {
    const size_t carries = (plan.segments + 1) * plan.chains, maps = plan.segments * plan.chains;
    auto* memory = static_cast<Wide*>(std::malloc((carries + 2 * maps) * sizeof(Wide)));
    if (!memory) return false;
    const P before = plan;
    Wide* products = memory + carries;
    first_carries(memory);
    const bool done = plan.wide ? wide_segments(memory, products, products + maps)
                                : narrow_segments(memory, products, products + maps);
    std::free(memory);
    if (!done) {
      new (&plan) P(before);
      plan.segments = 1;
      plan.segment_steps = plan.steps;
      clear(plan.problem.d_decay, decay_sums, decay_sets);
      clear(plan.problem.d_state, state_sums, state_sets);
    }
    return done;
  }

  // Carries of the chains [low, high) of segment s + 1 from those of segment s, and whether they and
  // the maps are finite: if not, a product may have overflowed where the recurrence does not.
  bool carry_on(int64_t s, int64_t low, int64_t high, Wide* carries, const Wide* products,
                const Wide* drives) const {
    bool finite = true;
    for (int64_t i = s * plan.chains + low; i < s * plan.chains + high; ++i) {
      Wide state = carries[i];
      finite = apply_map<D>(products[i], drives[i], state) && finite;
      carries[i + plan.chains] = state;
    }
    return finite;
  }

  // Segments are lanes. What does not fill them is a tail, done by one vector as any other group.
  bool narrow_segments(Wide* carries, Wide* products, Wide* drives) {
    const int64_t chains = plan.chains, segments = plan.segments, n = plan.segment_steps;
    const int64_t edge = plan.edge;
    const int64_t local_edge = 0 <= edge && edge < segments * n ? edge % n : -1;
    auto lanes_of = [&](Lanes& lanes, int64_t group) {
      plan.narrow_lanes(lanes, group * vector, chains * segments);
    };
    over(ceil_div((segments - 1) * chains, vector), [&](int64_t group, Scratch<D>& scratch, Sums<Wide>) {
      Lanes lanes;
      lanes_of(lanes, group);
      plan.reduced(lanes, 0, n, local_edge, scratch, products, drives);
    });
    for (int64_t s = 0; s + 1 < segments; ++s) {
      if (!carry_on(s, 0, chains, carries, products, drives)) return false;
    }
    plan.carries = carries;
    plan.lasts = products;  // no longer needed
    plan.ends = false;
    over(ceil_div(segments * chains, vector),
         [&](int64_t group, Scratch<D>& scratch, Sums<Wide> sums) {
           Lanes lanes;
           lanes_of(lanes, group);
           plan.whole(lanes, 0, n, local_edge, scratch, sums);
         });
    plan.carries = products + (segments - 1) * chains;
    plan.lasts = nullptr;
    plan.ends = true;
    plan.segments = 1;
    plan.segment_steps = plan.steps;
    over(groups, [&](int64_t group, Scratch<D>& scratch, Sums<Wide> sums) {
      Lanes lanes;
      plan.narrow_lanes(lanes, group * vector, chains);
      plan.whole(lanes, segments * n, plan.steps, edge, scratch, sums);
    });
    return true;
  }

  // Segments fit the second-level cache and are claimed in order. Each is reduced to its map, which
  // with the carry that enters it tells the carry that enters the next one, so that none waits for
  // more than the reductions before it; then it is read again, from the cache. (A chained scan:
  // Merrill & Garland 2016, "Single-pass parallel prefix scan with decoupled look-back".)
  bool wide_segments(Wide* carries, Wide* products, Wide* drives) {
    const int64_t chains = plan.chains, segments = plan.segments;
    auto* ready = static_cast<char*>(std::calloc(groups * segments, 1));  // is what enters known?
    if (!ready) return false;
    std::memset(ready, 1, groups);
    bool finite = true;
    parallel(groups * segments, [&](int64_t index, Scratch<D>& scratch) {
      const int64_t s = index / groups, group = index % groups;
      const int64_t first = plan.steps * s / segments, last = plan.steps * (s + 1) / segments;
      const bool is_last = s + 1 == segments;
      P part = plan;
      part.carries = carries + s * chains;
      part.ends = is_last;
      if (!is_last) {
        each_wide(group, [&](const Lanes& lanes) {
          part.reduced(lanes, first, last, plan.edge, scratch, products + s * chains,
                       drives + s * chains);
        });
      }
      for (int64_t spins = 0; !__atomic_load_n(&ready[index], __ATOMIC_ACQUIRE); ++spins) {
        if (!__atomic_load_n(&finite, __ATOMIC_RELAXED)) return;
        pause(spins);
      }
      if (!is_last) {
        each_wide(group, [&](const Lanes& lanes) {
          const int64_t low = lanes.id, high = lanes.id + lanes.count;
          if (!carry_on(s, low, high, carries, products, drives)) {
            __atomic_store_n(&finite, false, __ATOMIC_RELAXED);
          }
        });
        __atomic_store_n(&ready[index + groups], 1, __ATOMIC_RELEASE);
      }
      if (!__atomic_load_n(&finite, __ATOMIC_RELAXED)) return;
      const Sums<Wide> sums = set(plan.views[kDecay].step ? group : index, group);
      each_wide(group, [&](const Lanes& lanes) {
        part.whole(lanes, first, last, plan.edge, scratch, sums);
      });
    });
    std::free(ready);
    return finite;
  }

  // da or dh0: the sums of all sets.
  void write_sums(const Array& array, const Wide* sums, int64_t sets) {
    constexpr int64_t piece = 4096;
    auto* out = static_cast<typename D::Stored*>(array.data);
    parallel(ceil_div(array.size, piece), [&](int64_t item, Scratch<D>&) {
      for (int64_t i = item * piece; i < min(array.size, (item + 1) * piece); ++i) {
        Wide sum = sums[i];
        for (int64_t k = 1; k < sets; ++k) sum = D::add(sum, sums[k * array.size + i]);
        out[i] = D::round(sum);
      }
    });
  }
};

template <class D>
bool run_type(const Problem& problem, const Pool& pool) {
  switch (problem.kind) {
    case Kind::forward: return Run<D, Kind::forward>(problem, pool).run();
    case Kind::tangent: return Run<D, Kind::tangent>(problem, pool).run();
    case Kind::transpose: return Run<D, Kind::transpose>(problem, pool).run();
  }
  return false;
}

}  // namespace

bool run(const Problem& problem, const Pool& pool) {
  for (int i = 0; i < problem.rank; ++i) {
    if (problem.shape[i] == 0) return true;
  }
  switch (problem.type) {
    case Type::f16: return run_type<F16>(problem, pool);
    case Type::bf16: return run_type<BF16>(problem, pool);
    case Type::f32: return run_type<F32>(problem, pool);
    case Type::f64: return run_type<F64>(problem, pool);
    case Type::c64: return run_type<C64>(problem, pool);
    case Type::c128: return run_type<C128>(problem, pool);
  }
  return false;
}

}  // namespace KERNEL_NAMESPACE
}  // namespace rnnscan
