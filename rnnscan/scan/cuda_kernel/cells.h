// h_t = phi(u_t + W h_{t-1}), phi = tanh or relu, and its transposed map, on a GPU: one launch for all
// steps, whose blocks never wait for one another.
//
//   forward    h_t = phi(u_t + W h_{t-1})
//   backward   l_t = g_t + W^T d_{t+1},   d_t = phi'(h_t) l_t          (phi' written with h)
//
// A block has `rows` sequences and the whole of W, read once: the columns of W (backward: the rows),
// 32 at a time, are a chunk, and the first `kept` chunks stay in registers, the others in shared
// memory. Eight lanes share four units of h: of each chunk a lane has four columns of the four units.
// A step is
//
//   1. each lane multiplies its 16 weights a chunk by its columns of the vector of each sequence,
//   2. the eight lanes add what they have by shuffles, halving how many sums a lane has each time, so
//      that a lane ends with one sum (or two: `owned`), of one sequence,
//   3. it adds the drive, which was read `ahead` steps before, applies phi, and writes h to global
//      memory and to the other of two vectors in shared memory; the block meets.
//
// Sums are of H / 8 products in turn and then of eight: some H / 8 + 3 roundings. Which lane adds what
// is fixed, so the numbers are the same at every run.
//
// Where H is no multiple of 32, weights and vectors are zero beyond it.

#pragma once

#include "cells_problem.h"
#include RNNSCAN_DEVICE
#include "numbers.h"

namespace rnnscan {

constexpr int kWarp = 32;
constexpr int kParts = 8;   // lanes that share units
constexpr int kUnits = 4;   // that they share
constexpr int kGroups = kWarp / kParts;  // of units, of a warp: adjacent lanes, which read the same
constexpr int kChunk = 32;  // columns: four of each lane
constexpr int kMostChunks = 8, kMostRows = 4, kMostOwned = 2, kMostAhead = 4;

#ifdef RNNSCAN_INDEX  // wide enough for the numbers of an array
using Index = RNNSCAN_INDEX;
#else
using Index = int64_t;
#endif

struct alignas(16) Four {
  float x[4];
};

// Constants of a program for a GPU.
DEVICE int rows() { return static_cast<int>(problem.rows); }
DEVICE int kept() { return static_cast<int>(problem.kept); }
DEVICE int ahead() { return static_cast<int>(problem.ahead); }
DEVICE int hidden() { return static_cast<int>(problem.hidden); }
DEVICE int chunks() { return (hidden() + kChunk - 1) / kChunk; }
DEVICE int width() { return chunks() * kChunk; }
DEVICE int threads() { return width() / kUnits * kParts; }
DEVICE int owned() { return kUnits * rows() > kParts ? kUnits * rows() / kParts : 1; }

// Of the units that a lane owns.
struct Step {
  float drive[kMostOwned], state[kMostOwned];
  bool valid, reset;
};

struct Lane {
  const Pointers& at;
  const int part, units;  // of the eight; the first of the four
  Four weights[kUnits * kMostChunks];
  Four* others;           // weights in shared memory
  float* vectors;         // two for each sequence
  // What it owns after a sum: units of one sequence, which no lane with the same may write, too.
  int row, unit;
  bool writes;
  Index sequence;
  Index place;            // of this step of this sequence

  DEVICE Lane(const Pointers& pointers)
      : at(pointers),
        part(thread_index() % kWarp / kGroups),
        units((thread_index() / kWarp * kGroups + thread_index() % kGroups) * kUnits),
        others(reinterpret_cast<Four*>(shared_memory()) + thread_index()) {
    vectors = reinterpret_cast<float*>(shared_memory()) +
              (chunks() - kept()) * kUnits * threads() * 4;
    const int shared_by = kParts * owned() / (kUnits * rows());  // lanes that end with the same
    const int first = part / shared_by * owned();
    row = first / kUnits;
    unit = units + first % kUnits;
    writes = part % shared_by == 0;
    sequence = static_cast<Index>(block_index()) * rows() + row;
    place = sequence * problem.steps + (problem.from_the_end ? problem.steps - 1 : 0);
  }

  DEVICE bool has(int i) const { return sequence < problem.batch && unit + i < hidden(); }

  // The weights that it multiplies by four columns.
  DEVICE Four read_weights(int chunk, int j) const {
    Four four;
    UNROLL
    for (int k = 0; k < 4; ++k) {
      const int to = units + j, from = chunk * kChunk + part * 4 + k;
      const int place = problem.backward ? from * hidden() + to : to * hidden() + from;
      four.x[k] = to < hidden() && from < hidden() ? read_global(at.weights + place) : 0;
    }
    return four;
  }
  DEVICE void load_weights() {
    UNROLL
    for (int chunk = 0; chunk < chunks(); ++chunk) {
      UNROLL
      for (int j = 0; j < kUnits; ++j) {
        const int place = chunk * kUnits + j;
        if (chunk < kept()) {
          weights[place] = read_weights(chunk, j);
        } else {
          others[(place - kept() * kUnits) * threads()] = read_weights(chunk, j);
        }
      }
    }
  }

  // W times the vectors `which`, of what it owns.
  DEVICE void multiply(int which, float* sums) const {
    float parts[kUnits * kMostRows];
    UNROLL
    for (int i = 0; i < kUnits * rows(); ++i) parts[i] = 0;
    const float* vector = vectors + which * rows() * width() + part * 4;
    // Not unrolled: what is read would wait in registers, where there is no room.
    NO_UNROLL
    for (int chunk = kept(); chunk < chunks(); ++chunk) {
      Four w[kUnits];
      UNROLL
      for (int j = 0; j < kUnits; ++j) w[j] = others[((chunk - kept()) * kUnits + j) * threads()];
      add_products(w, vector + chunk * kChunk, parts);
    }
    UNROLL
    for (int chunk = 0; chunk < kept(); ++chunk) {
      add_products(weights + chunk * kUnits, vector + chunk * kChunk, parts);
    }
    add_parts(parts);
    UNROLL
    for (int i = 0; i < owned(); ++i) sums[i] = parts[i];
  }

  DEVICE void add_products(const Four* w, const float* vector, float* parts) const {
    UNROLL
    for (int r = 0; r < rows(); ++r) {
      const Four v = *reinterpret_cast<const Four*>(vector + r * width());
      UNROLL
      for (int k = 0; k < 4; ++k) {
        UNROLL
        for (int j = 0; j < kUnits; ++j) {
          parts[r * kUnits + j] = multiply_add(w[j].x[k], v.x[k], parts[r * kUnits + j]);
        }
      }
    }
  }

  // The sums over the eight lanes: of several a lane gives away half and keeps the other half.
  DEVICE void add_parts(float* parts) const {
    const int count = kUnits * rows();
    add_half(parts, count, kParts / 2);
    add_half(parts, count / 2, kParts / 4);
    add_half(parts, count / 4, kParts / 8);
  }
  // `count` sums, with the lane whose part is so far away.
  DEVICE void add_half(float* parts, int count, int distance) const {
    const int other = thread_index() % kWarp ^ distance * kGroups;
    const bool upper = part & distance;
    if (count < 2) parts[0] = parts[0] + shuffle_number(parts[0], other);
    UNROLL
    for (int i = 0; i < count / 2; ++i) {
      const float low = parts[i], high = parts[count / 2 + i];
      parts[i] = (upper ? high : low) + shuffle_number(upper ? low : high, other);
    }
  }

  // Of the step `by` steps on, of which there are `left` with this one.
  DEVICE void read(int by, Index left, Step& to) const {
    to.valid = true, to.reset = false;
    if (sequence >= problem.batch || by >= left) return;
    const Index on = problem.from_the_end ? -by : by;
    if (problem.padded) to.valid = read_global(at.valid + place + on);
    if (problem.resets) to.reset = read_global(at.reset + place + on);
    UNROLL
    for (int i = 0; i < owned(); ++i) {
      if (unit + i >= hidden()) continue;
      const Index number = (place + on) * hidden() + unit + i;
      to.drive[i] = read_global(at.drive + number);
      if (problem.backward) to.state[i] = read_global(at.states + number);
    }
  }

  static DEVICE float activated(float z) {
    if (problem.activation == static_cast<int>(Activation::tanh)) return hyperbolic_tangent(z);
    return z < 0 ? 0 : z;  // nan stays nan
  }
  static DEVICE float through(float l, float h) {
    if (problem.activation == static_cast<int>(Activation::tanh)) return l * (1 - h * h);
    return h > 0 ? l : 0;
  }

  DEVICE void write(float* to, Index vector, const float* values) const {
    UNROLL
    for (int i = 0; i < owned(); ++i) {
      if (writes && has(i)) write_global(to + vector * hidden() + unit + i, values[i]);
    }
  }
  // Zero beyond H, and for sequences beyond the last.
  DEVICE void tell(int which, const float* values) const {
    UNROLL
    for (int i = 0; i < owned(); ++i) {
      const int place = (which * rows() + row) * width() + unit + i;
      if (writes) vectors[place] = has(i) ? values[i] : 0;
    }
  }

  DEVICE void run() {
    // Forward, the state. Backward, what of the cotangent came past the step behind, and
    // whether it also came through the product.
    float state[kMostOwned], sums[kMostOwned];
    bool moves = false;
    UNROLL
    for (int i = 0; i < owned(); ++i) {
      state[i] = has(i) ? read_global(at.first + sequence * hidden() + unit + i) : 0;
      sums[i] = 0;
    }
    load_weights();
    tell(0, problem.backward ? sums : state);
    Step steps[kMostAhead];
    UNROLL
    for (int i = 0; i < ahead(); ++i) read(i, problem.steps, steps[i]);
    sync_block();  // the vectors are there
    int which = 0;
    const Index turns = problem.steps + problem.backward;  // backward ends with a product
    NO_UNROLL
    for (Index begin = 0; begin < turns; begin += ahead()) {
      UNROLL
      for (int turn = 0; turn < ahead(); ++turn) {
        const Index left = problem.steps - begin - turn;
        if (left < 0 || (left == 0 && !problem.backward)) return;
        multiply(which, sums);
        if (problem.backward) {
          UNROLL
          for (int i = 0; i < owned(); ++i) state[i] += moves ? sums[i] : 0;
        }
        if (left == 0) return write(at.last, sequence, state);
        const Step now = steps[turn];
        read(ahead(), left, steps[turn]);
        float out[kMostOwned];
        UNROLL
        for (int i = 0; i < owned(); ++i) {
          if (problem.backward) {
            const float l = now.drive[i] + state[i];
            out[i] = now.valid ? through(l, now.state[i]) : 0;
            state[i] = now.valid ? 0 : l;
          } else {
            const float z = now.reset ? now.drive[i] : now.drive[i] + sums[i];
            if (now.valid) state[i] = activated(z);
            out[i] = state[i];
          }
        }
        moves = now.valid && !now.reset;
        which ^= 1;
        tell(which, out);
        write(at.out, place, out);
        place += problem.from_the_end ? -1 : 1;
        sync_block();  // the vectors of this step are there
      }
    }
  }
};

// All threads of the grid.
template <class N>
DEVICE void run(const Pointers& at) { Lane(at).run(); }

}  // namespace rnnscan
