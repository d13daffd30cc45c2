// h_t = a_t h_{t-1} + b_t, elementwise, its tangent map and that map's transpose, on a GPU.
//
// Every operand is read once and every result written once (`reduce` and `apply` read twice): 3 words
// an element forward, 5 for the other two maps, one less where the decay is constant. Copies into
// shared memory run ahead of the arithmetic, `stages` tiles deep, so that what is in flight does not
// depend on how many threads there are.
//
// Where a warp has one segment, a lane goes through its chain step by step. Where it has several, or
// where time is split into chunks, a stretch of time is first made into one map h -> A h + B (Blelloch
// 1990, section 1.4.1; see linear_methods/associative.py), maps are composed, and the stretch is then
// done step by step from the state that enters it.
//
// Modes (problem.h): `chained` is a chained scan (Merrill & Garland 2016, "Single-pass parallel prefix
// scan with decoupled look-back", section 4.1): blocks take tickets, so the one before has begun, and
// wait for its last state alone, so that the result does not depend on when it comes.

#pragma once

#include "problem.h"
#include RNNSCAN_DEVICE
#include "numbers.h"

namespace rnnscan {

constexpr int kWarp = 32;

// Moved as one.
template <int bytes>
struct alignas(bytes) Unit {
  uint32_t words[bytes / 4];
};
template <>
struct alignas(2) Unit<2> {
  uint16_t word;
};

DEVICE void copy_unit(void* to, const void* from, int bytes) {
  if (bytes == 16) return copy_async<16>(to, from);
  if (bytes == 8) return copy_async<8>(to, from);
  copy_async<4>(to, from);
}

template <int bytes>
DEVICE void write_unit(void* to, const void* from) {
  const Unit<bytes> unit = *static_cast<const Unit<bytes>*>(from);
  if constexpr (bytes == 2) {
    write_global(static_cast<Unit<2>*>(to), unit);
  } else {
    write_words<bytes>(to, unit.words);
  }
}
DEVICE void write_unit(void* to, const void* from, int bytes) {
  if (bytes == 16) return write_unit<16>(to, from);
  if (bytes == 8) return write_unit<8>(to, from);
  if (bytes == 4) return write_unit<4>(to, from);
  write_unit<2>(to, from);
}

// What a stretch of time does to the state that enters it.
enum Tag { kNothing, kLinear, kConstant };

template <class Wide>
struct Map {
  Wide product, drive;
  int tag = kNothing;

  DEVICE Wide operator()(Wide state) const {
    if (tag == kNothing) return state;
    return tag == kConstant ? drive : multiply_add(product, state, drive);
  }
};

template <class Wide>
DEVICE Map<Wide> compose(const Map<Wide>& later, const Map<Wide>& earlier) {
  if (later.tag != kLinear) return later.tag == kNothing ? earlier : later;
  if (earlier.tag == kNothing) return later;
  return {multiply(later.product, earlier.product),
          multiply_add(later.product, earlier.drive, later.drive), earlier.tag};
}

template <class Wide>
DEVICE Map<Wide> shuffle_map(const Map<Wide>& map, int lane) {
  Map<Wide> other;
  other.product = shuffle_number(map.product, lane);
  other.drive = shuffle_number(map.drive, lane);
  other.tag = static_cast<int>(shuffle(static_cast<uint32_t>(map.tag), lane));
  return other;
}

// Where a number lies in an operand, in its first step.
template <class Index>
DEVICE int64_t offset_of(const View& view, Index chain) {
  int64_t sum = 0;
  UNROLL
  for (int i = static_cast<int>(problem.axes) - 1; i > 0; --i) {
    const auto size = static_cast<Index>(problem.shape[i]);
    sum += chain % size * view.strides[i];
    chain /= size;
  }
  return problem.axes ? sum + chain * view.strides[0] : 0;
}
DEVICE int64_t offset(const View& view, int64_t chain) {
  if (problem.chains >> 31) return offset_of<int64_t>(view, chain);
  return offset_of<uint32_t>(view, static_cast<uint32_t>(chain));  // divides faster
}

// Constants of a program for a GPU.
DEVICE Kind kind() { return static_cast<Kind>(problem.kind); }
DEVICE int vector() { return static_cast<int>(problem.vector); }
DEVICE int lanes() { return static_cast<int>(problem.lanes); }
DEVICE int segments() { return static_cast<int>(problem.segments); }
DEVICE int length() { return static_cast<int>(problem.length); }
DEVICE int pitch() { return static_cast<int>(problem.pitch); }
DEVICE int stages() { return static_cast<int>(problem.stages); }
DEVICE int warps() { return static_cast<int>(problem.warps); }
// Chains of a unit, and steps of one.
DEVICE int items() { return problem.along_time ? 1 : vector(); }
DEVICE int unit_steps() { return problem.along_time ? vector() : 1; }
DEVICE int lane_steps() { return length() * unit_steps(); }
DEVICE int tile_steps() { return segments() * lane_steps(); }

template <class N>
struct Warp {
  using Stored = typename N::Stored;
  using Wide = typename N::Wide;
  static constexpr int kWidest = 16 / sizeof(Stored);
  static constexpr unsigned kHeld = 8;  // copies on their way in registers

  // Of one step, for each number of a unit; those that a map does not read are left alone.
  struct Step {
    Wide a[kWidest], drive[kWidest], before[kWidest], da[kWidest];
    bool reset[kWidest];
  };
  struct alignas(16) Units {
    Stored numbers[kWidest];
  };

  const Pointers& at;
  const int lane, segment, place;  // place: of the lane's unit among those of the warp
  char* memory;                     // of this warp: its stages
  int64_t first_unit = 0, outer = 0;
  int64_t chain = -1;               // the first of the lane's unit
  Step fixed;                       // what is constant in time
  Wide carry[kWidest];              // what enters the next tile
  Wide sums[kWidest];

  DEVICE Warp(const Pointers& pointers, char* shared, int index)
      : at(pointers),
        lane(index),
        segment(index / lanes()),
        place(index % lanes()),
        memory(shared) {}

  static DEVICE int64_t inner_units() {
    return problem.along_time ? problem.inner : problem.inner / problem.vector;
  }
  static DEVICE int64_t groups_of_outer() {
    return (inner_units() + problem.lanes - 1) / problem.lanes;
  }
  static DEVICE int64_t groups() { return problem.chains / problem.inner * groups_of_outer(); }

  // The chains of this warp.
  DEVICE void take(int64_t group) {
    outer = group / groups_of_outer();
    first_unit = group % groups_of_outer() * problem.lanes;
    chain = segment < problem.segments ? chain_at(place) : -1;
    UNROLL
    for (int x = 0; x < vector(); ++x) sums[x] = Wide{};
    if (chain >= 0) read_fixed();
  }

  // The first chain of a unit of the group, or -1 where there is none.
  DEVICE int64_t chain_at(int unit) const {
    const int64_t index = first_unit + unit;
    return index < inner_units() ? outer * problem.inner + index * items() : -1;
  }

  DEVICE void read_fixed() {
    read_fixed(kDecay, fixed.a);
    read_fixed(kDrive, fixed.drive);
    read_fixed(kDecayTangent, fixed.da);
    const View& view = problem.views[kReset];
    if (!view.present || view.step) return;
    UNROLL
    for (int x = 0; x < vector(); ++x) {
      const auto* from = static_cast<const uint8_t*>(at.views[kReset]);
      fixed.reset[x] = read_global(from + offset(view, chain + (x < items() ? x : 0)));
    }
  }
  DEVICE void read_fixed(int stream, Wide* to) {
    const View& view = problem.views[stream];
    if (!view.present || view.step) return;
    UNROLL
    for (int x = 0; x < vector(); ++x) {
      const auto* from = static_cast<const Stored*>(at.views[stream]);
      to[x] = N::widen(read_global(from + offset(view, chain + (x < items() ? x : 0))));
    }
  }

  // What enters the first step.
  DEVICE void enter() {
    UNROLL
    for (int x = 0; x < items(); ++x) {
      carry[x] = Wide{};
      if (!problem.state.present || chain < 0) continue;
      const auto* from = static_cast<const Stored*>(at.state);
      carry[x] = N::widen(read_global(from + offset(problem.state, chain + x)));
    }
  }

  // Shared memory: a row of slots for each unit of a lane, a slot for each lane.

  static DEVICE int slot(int row, int column) { return row * pitch() + column; }

  // Calls body(row, column, unit of the group, first step) for each `run` adjacent steps of the tile
  // [begin, end), a unit at a time, so that neighbouring lanes are neighbours in memory.
  template <class Body>
  DEVICE void each(int run, int64_t begin, int64_t end, Body body) const {
    UNROLL_BY_4
    for (unsigned i = 0; i < turns(run); ++i) visit(i, run, begin, end, body);
  }
  static DEVICE unsigned turns(int run) {
    return (segments() * (lane_steps() / run) * lanes() + kWarp - 1) / kWarp;
  }
  // The i-th of this lane.
  template <class Body>
  DEVICE void visit(unsigned i, int run, int64_t begin, int64_t end, Body body) const {
    const unsigned rows = lane_steps() / run, across = lanes();  // unsigned: they divide faster
    if (across == kWarp) {  // a lane has its own
      const int left = chain < 0 ? 0 : static_cast<int>(least(end - begin, lane_steps()));
      const int ahead = static_cast<int>(i) * run;
      if (ahead < left) body(static_cast<int>(i), lane, chain, begin + ahead);
      return;
    }
    const unsigned index = i * kWarp + lane;
    const unsigned unit = index % across, row = index / across % rows, part = index / across / rows;
    const int64_t step = begin + static_cast<int>((part * rows + row) * run);
    const int64_t first_chain = chain_at(unit);
    if (index < segments() * rows * across && step < end && first_chain >= 0) {
      body(static_cast<int>(row), static_cast<int>(part * across + unit), first_chain, step);
    }
  }

  static DEVICE int64_t position(int64_t step, int run) {
    return problem.backward ? problem.steps - run - step : step;
  }

  DEVICE void load(char* stage, int64_t begin, int64_t end) const {
    load(kDecay, stage, begin, end, sizeof(Stored));
    load(kDrive, stage, begin, end, sizeof(Stored));
    load(kBefore, stage, begin, end, sizeof(Stored));
    load(kDecayTangent, stage, begin, end, sizeof(Stored));
    load(kReset, stage, begin, end, 1);
  }
  DEVICE void load(int stream, char* stage, int64_t begin, int64_t end, int size) const {
    const View& view = problem.views[stream];
    if (!view.present || !view.step) return;
    const int width = static_cast<int>(view.width), bytes = width * size;
    const int run = problem.along_time ? width : 1;
    const int shift = stream != kBefore ? 0 : kind() == Kind::transpose ? 1 : -1;
    auto outside = [&](int64_t step) { return shift && (step < 0 || step >= problem.steps); };
    auto source = [&](int64_t from_chain, int64_t step) {
      const int64_t from = position(step, run) * view.step + offset(view, from_chain);
      return static_cast<const char*>(at.views[stream]) + from * size;
    };
    if (bytes < 4) {  // which no copy moves on its own: all are asked for before one is needed
      // Where lanes are turned, the places that they go to take registers too.
      const unsigned count = lanes() == kWarp ? kHeld : vector() == 1 ? kHeld / 2 : kHeld / 4;
      NO_UNROLL
      for (unsigned i = 0; i < turns(run); i += count) {
        uint16_t held[kHeld];
        UNROLL
        for (unsigned j = 0; j < count; ++j) {
          visit(i + j, run, begin, end, [&](int, int, int64_t from_chain, int64_t step) {
            step += shift;
            const void* from = source(from_chain, outside(step) ? 0 : step);
            if (outside(step)) {
              from = static_cast<const Stored*>(at.first) + offset(problem.first, from_chain);
            }
            held[j] = bytes == 2 ? read_global(static_cast<const uint16_t*>(from))
                                 : read_global(static_cast<const uint8_t*>(from));
          });
        }
        UNROLL
        for (unsigned j = 0; j < count; ++j) {
          visit(i + j, run, begin, end, [&](int row, int column, int64_t, int64_t) {
            char* to = stage + view.place + slot(row, column) * bytes;
            if (bytes == 2) {
              *reinterpret_cast<uint16_t*>(to) = held[j];
            } else {
              *reinterpret_cast<uint8_t*>(to) = static_cast<uint8_t>(held[j]);
            }
          });
        }
      }
      return;
    }
    each(run, begin, end, [&](int row, int column, int64_t from_chain, int64_t step) {
      char* to = stage + view.place + slot(row, column) * bytes;
      step += shift;
      if (outside(step)) {
        UNROLL
        for (int x = 0; x < width; ++x) {
          const auto* from = static_cast<const Stored*>(at.first);
          reinterpret_cast<Stored*>(to)[x] =
              read_global(from + offset(problem.first, from_chain + x));
        }
        return;
      }
      copy_unit(to, source(from_chain, step), bytes);
    });
  }

  DEVICE void read(int stream, const char* stage, int row, const Wide* constant, Wide* to) const {
    const View& view = problem.views[stream];
    if (!view.present) return;
    if (!view.step) {
      UNROLL
      for (int x = 0; x < vector(); ++x) to[x] = constant[x];
      return;
    }
    const auto* from = reinterpret_cast<const Stored*>(stage + view.place);
    if (view.width == vector()) {
      const Units units = read_units(from + slot(row, lane) * vector());
      UNROLL
      for (int x = 0; x < vector(); ++x) to[x] = N::widen(units.numbers[along(x)]);
    } else {
      UNROLL
      for (int x = 0; x < vector(); ++x) {
        to[x] = N::widen(from[slot(problem.along_time ? row * vector() + x : row, lane)]);
      }
    }
  }
  DEVICE void read_reset(const char* stage, int row, bool* to) const {
    const View& view = problem.views[kReset];
    if (!view.present) return;
    const auto* from = reinterpret_cast<const uint8_t*>(stage + view.place);
    UNROLL
    for (int x = 0; x < vector(); ++x) {
      if (!view.step) {
        to[x] = fixed.reset[x];
      } else if (view.width == vector()) {
        to[x] = from[slot(row, lane) * vector() + along(x)];
      } else {
        to[x] = from[slot(problem.along_time ? row * vector() + x : row, lane)];
      }
    }
  }
  DEVICE void read(const char* stage, int row, Step& step) const {
    read(kDecay, stage, row, fixed.a, step.a);
    read(kDrive, stage, row, fixed.drive, step.drive);
    read(kBefore, stage, row, fixed.before, step.before);
    read(kDecayTangent, stage, row, fixed.da, step.da);
    read_reset(stage, row, step.reset);
  }

  // Which number of a unit comes x-th in the order of the scan.
  DEVICE int along(int x) const {
    return problem.along_time && problem.backward ? vector() - 1 - x : x;
  }

  template <int count>
  static DEVICE void copy_some(const Stored* from, Stored* to) {
    struct alignas(count * sizeof(Stored)) Some {
      Stored numbers[count];
    };
    const Some some = *reinterpret_cast<const Some*>(from);
    UNROLL
    for (int x = 0; x < count; ++x) to[x] = some.numbers[x];
  }
  DEVICE Units read_units(const Stored* from) const {
    Units units;
    if (vector() == kWidest) return *reinterpret_cast<const Units*>(from);
    if (vector() == 4) copy_some<4>(from, units.numbers);
    if (vector() == 2) copy_some<2>(from, units.numbers);
    if (vector() == 1) units.numbers[0] = from[0];
    return units;
  }

  // A unit of a result: at once, or, where a warp's lanes are segments, by way of shared memory.
  DEVICE void put(const View& view, void* result, char* stage, int row, int64_t step,
                  const Units& units) const {
    const int bytes = vector() * static_cast<int>(sizeof(Stored));
    if (problem.segments > 1) {
      auto* to = reinterpret_cast<Stored*>(stage + view.place) + slot(row, lane) * vector();
      if (vector() == kWidest) {
        *reinterpret_cast<Units*>(to) = units;
        return;
      }
      UNROLL
      for (int x = 0; x < vector(); ++x) to[x] = units.numbers[x];
      return;
    }
    const int64_t to = position(step, 1) * view.step + offset(view, chain);
    write_unit(static_cast<Stored*>(result) + to, units.numbers, bytes);
  }
  DEVICE void store(const View& view, void* result, const char* stage, int64_t begin,
                    int64_t end) const {
    if (!view.present) return;
    const int bytes = vector() * static_cast<int>(sizeof(Stored));
    each(unit_steps(), begin, end, [&](int row, int column, int64_t to_chain, int64_t step) {
      const int64_t to = position(step, unit_steps()) * view.step + offset(view, to_chain);
      const char* from = stage + view.place + slot(row, column) * bytes;
      write_unit(static_cast<Stored*>(result) + to, from, bytes);
    });
  }

  // Steps of this lane in the tile.
  DEVICE int count(int64_t begin, int64_t end) const {
    const int64_t left = end - begin - segment * lane_steps();
    return chain < 0 || left < 0 ? 0 : left < lane_steps() ? static_cast<int>(left) : lane_steps();
  }

  // The map of this lane's steps, behind what `maps` holds.
  DEVICE void reduce(const char* stage, int steps, Map<Wide>* maps) const {
    UNROLL_BY_4
    for (int row = 0; row < length(); ++row) {
      if (row * unit_steps() >= steps) break;
      Step step;
      read(stage, row, step);
      UNROLL
      for (int x = 0; x < vector(); ++x) extend(maps[problem.along_time ? 0 : x], step, x);
    }
  }
  DEVICE void extend(Map<Wide>& map, const Step& step, int x) const {
    if (problem.views[kReset].present && step.reset[x]) {
      map.drive = kind() == Kind::transpose ? Wide{} : step.drive[x];
      map.tag = kConstant;
      return;
    }
    const bool first = map.tag == kNothing;
    if (kind() == Kind::transpose) {  // the map of a_{t+1} l_{t+1}
      map.drive = multiply(step.a[x], first ? step.drive[x] : step.drive[x] + map.drive);
    } else {
      Wide drive = step.drive[x];
      if (kind() == Kind::tangent) drive = multiply_add(step.da[x], step.before[x], drive);
      map.drive = first ? drive : multiply_add(step.a[x], map.drive, drive);
    }
    map.product = first ? step.a[x] : multiply(step.a[x], map.product);
    if (first) map.tag = kLinear;
  }

  // Each lane's map behind those of the segments before it.
  DEVICE void scan_segments(Map<Wide>* maps) const {
    UNROLL
    for (int apart = 1; apart < segments(); apart *= 2) {
      const bool has_other = segment >= apart;
      UNROLL
      for (int i = 0; i < items(); ++i) {
        const Map<Wide> other = shuffle_map(maps[i], has_other ? lane - apart * lanes() : lane);
        if (has_other) maps[i] = compose(maps[i], other);
      }
    }
  }
  // From the inclusive maps of `scan_segments`: what enters this lane.
  DEVICE void enter_segment(const Map<Wide>* maps, Wide* state) const {
    UNROLL
    for (int i = 0; i < items(); ++i) {
      const int before = segment ? lane - lanes() : lane;
      const Map<Wide> map = shuffle_map(maps[i], before);
      state[i] = segment ? map(carry[i]) : carry[i];
    }
  }
  DEVICE int last_lane() const {
    return (segments() - 1) * lanes() + place;
  }

  // This lane's steps from the state that enters them, results included.
  DEVICE void run(char* stage, int steps, int64_t begin, Wide* state) {
    UNROLL_BY_4
    for (int row = 0; row < length(); ++row) {
      if (row * unit_steps() >= steps) break;
      Step step;
      read(stage, row, step);
      Units out, d_decay;
      UNROLL
      for (int x = 0; x < vector(); ++x) {
        const int i = problem.along_time ? 0 : x;
        Wide gradient{};
        out.numbers[along(x)] = N::round(advance(state[i], step, x, gradient));
        if (problem.sums) sums[i] = sums[i] + gradient;
        d_decay.numbers[along(x)] = N::round(gradient);
      }
      const int64_t now = begin + segment * lane_steps() + row;
      put(problem.out, at.out, stage, row, now, out);
      if (problem.d_decay.present) put(problem.d_decay, at.d_decay, stage, row, now, d_decay);
    }
  }
  // One step: the result, and the state that leaves it.
  DEVICE Wide advance(Wide& state, const Step& step, int x, Wide& gradient) const {
    const bool reset = problem.views[kReset].present && step.reset[x];
    if (kind() == Kind::transpose) {  // the state is a_{t+1} l_{t+1}
      const Wide adjoint = step.drive[x] + state;
      if (problem.views[kBefore].present && !reset) gradient = multiply(adjoint, step.before[x]);
      state = reset ? Wide{} : multiply(step.a[x], adjoint);
      return adjoint;
    }
    Wide drive = step.drive[x];
    if (reset) {
      state = drive;
    } else {
      if (kind() == Kind::tangent) drive = multiply_add(step.da[x], step.before[x], drive);
      state = multiply_add(step.a[x], state, drive);
    }
    return state;
  }

  DEVICE void store(const char* stage, int64_t begin, int64_t end) const {
    if (problem.segments == 1) return;
    sync_warp();  // results of all lanes are there
    store(problem.out, at.out, stage, begin, end);
    store(problem.d_decay, at.d_decay, stage, begin, end);
  }

  // The tile [begin, end) from `carry`, which becomes what enters the next one.
  DEVICE void evaluate(char* stage, int64_t begin, int64_t end) {
    const int steps = count(begin, end);
    if (problem.segments == 1) {
      run(stage, steps, begin, carry);
      return;
    }
    Map<Wide> maps[kWidest];
    Wide state[kWidest];
    reduce(stage, steps, maps);
    scan_segments(maps);
    enter_segment(maps, state);
    run(stage, steps, begin, state);
    UNROLL
    for (int i = 0; i < items(); ++i) carry[i] = shuffle_number(state[i], last_lane());
    store(stage, begin, end);
  }

  // Calls body(stage, begin, end) for each tile of [begin, end), with copies running ahead.
  template <class Body>
  DEVICE void stream(int64_t begin, int64_t end, Body body) const {
    const int64_t tiles = (end - begin + tile_steps() - 1) / tile_steps();
    auto fetch = [&](int64_t tile) {
      const int64_t from = begin + tile * tile_steps();
      if (tile < tiles) load(memory + tile % stages() * problem.stage_bytes, from, least(from + tile_steps(), end));
      commit_copies();  // without copies too, so that groups are counted alike
    };
    for (int tile = 0; tile + 1 < stages(); ++tile) fetch(tile);
    for (int64_t tile = 0; tile < tiles; ++tile) {
      fetch(tile + stages() - 1);
      WAIT_FOR_COPIES(problem.stages - 1);
      sync_warp();  // copies of all lanes are there
      const int64_t from = begin + tile * tile_steps();
      body(memory + tile % stages() * problem.stage_bytes, from, least(from + tile_steps(), end));
      sync_warp();  // the stage may be filled again
    }
  }

  static DEVICE int64_t least(int64_t x, int64_t y) { return x < y ? x : y; }
  DEVICE bool writes() const { return segment == 0 && chain >= 0; }

  // The sums of da and, at the last step, what leaves the scan.
  DEVICE void finish(int64_t chunk) {
    if (problem.sums) write_wide(at.d_decay, chunk, over_segments(sums));
    if (kind() == Kind::transpose && chunk + 1 == problem.chunks) write_wide(at.d_state, 0, carry);
  }
  DEVICE void write_wide(void* to, int64_t chunk, const Wide* numbers) const {
    if (!writes()) return;
    UNROLL
    for (int i = 0; i < items(); ++i) {
      write_global(static_cast<Wide*>(to) + chunk * problem.chains + chain + i, numbers[i]);
    }
  }
  // The sums over the segments of the warp, in place.
  DEVICE const Wide* over_segments(Wide* numbers) const {
    UNROLL
    for (int i = 0; i < items(); ++i) {
      Wide sum = shuffle_number(numbers[i], place);
      for (int part = 1; part < segments(); ++part) {
        sum = sum + shuffle_number(numbers[i], part * lanes() + place);
      }
      numbers[i] = sum;
    }
    return numbers;
  }

  // Modes.

  DEVICE void walk() {
    enter();
    stream(0, problem.steps, [&](char* stage, int64_t from, int64_t to) { evaluate(stage, from, to); });
    finish(0);
  }

  DEVICE void reduce_chunk(int64_t chunk) {
    Map<Wide> total[kWidest];
    const int64_t begin = chunk * problem.chunk, end = least(begin + problem.chunk, problem.steps);
    stream(begin, end, [&](char* stage, int64_t from, int64_t to) {
      if (problem.segments == 1) {
        reduce(stage, count(from, to), total);
        return;
      }
      Map<Wide> maps[kWidest];
      reduce(stage, count(from, to), maps);
      scan_segments(maps);
      UNROLL
      for (int i = 0; i < items(); ++i) {
        total[i] = compose(shuffle_map(maps[i], last_lane()), total[i]);
      }
    });
    if (!writes()) return;
    UNROLL
    for (int i = 0; i < items(); ++i) {
      const int64_t index = chunk * problem.chains + chain + i;
      write_global(static_cast<Wide*>(at.products) + index, total[i].product);
      write_global(static_cast<Wide*>(at.drives) + index, total[i].drive);
      write_global(at.tags + index, total[i].tag);
    }
  }

  DEVICE void apply_chunk(int64_t chunk) {
    enter();
    // The maps of all chunks before this one, shared among the segments.
    Map<Wide> maps[kWidest];
    const int64_t part = (chunk + problem.segments - 1) / problem.segments;
    for (int64_t k = segment * part; k < least(chunk, (segment + 1) * part); ++k) {
      UNROLL
      for (int i = 0; i < items(); ++i) {
        if (chain < 0) continue;
        const int64_t index = k * problem.chains + chain + i;
        Map<Wide> map;
        map.product = read_global(static_cast<const Wide*>(at.products) + index);
        map.drive = read_global(static_cast<const Wide*>(at.drives) + index);
        map.tag = read_global(at.tags + index);
        maps[i] = compose(map, maps[i]);
      }
    }
    scan_segments(maps);
    UNROLL
    for (int i = 0; i < items(); ++i) carry[i] = shuffle_map(maps[i], last_lane())(carry[i]);
    const int64_t begin = chunk * problem.chunk, end = least(begin + problem.chunk, problem.steps);
    stream(begin, end, [&](char* stage, int64_t from, int64_t to) { evaluate(stage, from, to); });
    finish(chunk);
  }
};

// What the warps of a block tell each other, behind their stages: for each warp and chain.
template <class Wide>
struct Board {
  Wide *products, *drives, *enters;
  int* tags;
  int* ticket;

  DEVICE explicit Board(char* memory, int64_t numbers) {
    products = reinterpret_cast<Wide*>(memory);
    drives = products + numbers;
    enters = drives + numbers;
    tags = reinterpret_cast<int*>(enters + numbers);
    ticket = tags + numbers;
  }
};

// The state behind a chunk, to the block of the next: 32 bits a message, and that they are there.
template <class Wide>
DEVICE void tell(void* messages, int64_t index, Wide state) {
  constexpr int parts = sizeof(Wide) / 4;
  union {
    Wide number;
    uint32_t words[parts];
  } u{state};
  auto* to = static_cast<uint64_t*>(messages) + 1 + index * parts;
  UNROLL
  for (int i = 0; i < parts; ++i) write_message(to + i, static_cast<uint64_t>(1) << 32 | u.words[i]);
}
template <class Wide>
DEVICE Wide hear(void* messages, int64_t index) {
  constexpr int parts = sizeof(Wide) / 4;
  union {
    uint32_t words[parts];
    Wide number;
  } u;
  const auto* from = static_cast<const uint64_t*>(messages) + 1 + index * parts;
  UNROLL
  for (int i = 0; i < parts; ++i) {
    uint64_t word;
    while (!((word = read_message(from + i)) >> 32)) pause();
    u.words[i] = static_cast<uint32_t>(word);
  }
  return u.number;
}

// A block has one chunk of time, a tile for each of its warps.
template <class N>
DEVICE void chained(const Pointers& at) {
  using Wide = typename N::Wide;
  const int warp_index = thread_index() / kWarp;
  char* memory = shared_memory();
  Warp<N> warp(at, memory + warp_index * problem.stage_bytes, thread_index() % kWarp);
  const int across = lanes() * items();
  Board<Wide> board(memory + warps() * problem.stage_bytes, static_cast<int64_t>(warps()) * across);

  if (thread_index() == 0) *board.ticket = next_ticket(static_cast<uint32_t*>(at.messages));
  sync_block();  // the ticket is there
  const int64_t ticket = static_cast<uint32_t>(*board.ticket);
  const int64_t chunk = ticket / warp.groups();
  warp.take(ticket % warp.groups());
  const int64_t begin = chunk * problem.chunk + warp_index * tile_steps();
  const int64_t end = warp.least(begin + tile_steps(), problem.steps);
  if (begin < end) warp.load(warp.memory, begin, end);
  commit_copies();
  WAIT_FOR_COPIES(0);
  sync_warp();  // copies of all lanes are there

  Map<Wide> maps[Warp<N>::kWidest];
  const int steps = warp.count(begin, end);
  warp.reduce(warp.memory, steps, maps);
  warp.scan_segments(maps);
  if (warp.lane == warp.last_lane()) {
    UNROLL
    for (int i = 0; i < items(); ++i) {
      const int index = warp_index * across + warp.place * items() + i;
      board.products[index] = maps[i].product;
      board.drives[index] = maps[i].drive;
      board.tags[index] = maps[i].tag;
    }
  }
  sync_block();  // the maps of all warps are there
  if (warp_index == 0 && warp.segment == 0 && warp.chain >= 0) {
    warp.enter();
    UNROLL
    for (int i = 0; i < items(); ++i) {
      auto map_of = [&](int w) {
        const int index = w * across + warp.place * items() + i;
        return Map<Wide>{board.products[index], board.drives[index], board.tags[index]};
      };
      Map<Wide> total;
      for (int w = 0; w < warps(); ++w) total = compose(map_of(w), total);
      const int64_t chains = problem.chains, to = chunk * chains + warp.chain + i;
      Wide state = chunk ? hear<Wide>(at.messages, to - chains) : warp.carry[i];
      if (chunk + 1 < problem.chunks) tell(at.messages, to, total(state));
      for (int w = 0; w < warps(); ++w) {
        board.enters[w * across + warp.place * items() + i] = state;
        state = map_of(w)(state);
      }
    }
  }
  sync_block();  // what enters each warp is there
  Wide state[Warp<N>::kWidest];
  UNROLL
  for (int i = 0; i < items(); ++i) {
    warp.carry[i] = board.enters[warp_index * across + warp.place * items() + i];
  }
  warp.enter_segment(maps, state);
  warp.run(warp.memory, steps, begin, state);
  if (begin < end) warp.store(warp.memory, begin, end);
  UNROLL
  for (int i = 0; i < items(); ++i) warp.carry[i] = shuffle_number(state[i], warp.last_lane());
  if (problem.sums) {  // over the warps of the block too
    warp.over_segments(warp.sums);
    if (warp.writes()) {
      UNROLL
      for (int i = 0; i < items(); ++i) {
        board.products[warp_index * across + warp.place * items() + i] = warp.sums[i];
      }
    }
    sync_block();  // the sums of all warps are there
    UNROLL
    for (int i = 0; i < items(); ++i) {
      warp.sums[i] = board.products[warp.place * items() + i];
      for (int w = 1; w < warps(); ++w) {
        warp.sums[i] = warp.sums[i] + board.products[w * across + warp.place * items() + i];
      }
    }
    if (warp_index == 0) warp.write_wide(at.d_decay, chunk, warp.sums);
  }
  if (kind() == Kind::transpose && chunk + 1 == problem.chunks && warp_index + 1 == warps()) {
    warp.write_wide(at.d_state, 0, warp.carry);
  }
}

// All threads of the grid.
template <class N>
DEVICE void run(const Pointers& at) {
  if (problem.mode == static_cast<int>(Mode::chained)) return chained<N>(at);
  const int warp_index = thread_index() / kWarp;
  char* memory = shared_memory() + warp_index * problem.stages * problem.stage_bytes;
  Warp<N> warp(at, memory, thread_index() % kWarp);
  const int64_t work = block_index() * problem.warps + warp_index;
  const int64_t group = work % warp.groups(), chunk = work / warp.groups();
  if (chunk >= problem.chunks) return;
  warp.take(group);
  if (problem.mode == static_cast<int>(Mode::walk)) {
    warp.walk();
  } else if (problem.mode == static_cast<int>(Mode::reduce)) {
    warp.reduce_chunk(chunk);
  } else {
    warp.apply_chunk(chunk);
  }
}

}  // namespace rnnscan
