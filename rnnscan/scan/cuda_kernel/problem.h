// What the CUDA kernel (linear.h) is asked: shapes, strides and how the work is laid out, as numbers
// that `plan.py` chooses. On a GPU they are constants of the program, on a host a variable.
//
// A *chain* is one sequence. A *unit* is `vector` numbers that are moved as one: adjacent chains, or
// adjacent steps of one chain (`along_time`). A warp has `segments` times `lanes` lanes: each holds
// `length` units of one segment of time of one (unit of a) chain, and all of these are a *tile*.

#pragma once

#include "integers.h"
#include "linear/maps.h"

#ifndef RNNSCAN_AXES
#define RNNSCAN_AXES 16  // the most that chains may have; plan.py says how many they have
#endif

namespace rnnscan {

enum class Mode {
  walk,     // a warp goes from the first step to the last
  reduce,   // a warp makes one map of a chunk of time,
  apply,    // and another reads the chunk again, once it is known what enters
  chained,  // a block keeps a chunk in shared memory and waits for the one before it
};

// What a step reads.
enum Stream { kDecay, kDrive, kBefore, kDecayTangent, kReset, kStreams };

// Numbers alone, so that it can be filled from a flat list.
struct View {
  int64_t present;
  int64_t step;                   // numbers from one step to the next; 0: constant in time
  int64_t strides[RNNSCAN_AXES];  // over the axes of the chains
  int64_t width;                  // numbers moved as one: 1 or `vector`
  int64_t place;                  // bytes into a stage, where it goes through shared memory
};

struct Problem {
  int64_t type, kind, mode;
  int64_t backward;               // from the last step to the first
  int64_t steps;
  int64_t axes, shape[RNNSCAN_AXES];  // of the chains
  int64_t chains, inner;          // those of a warp are of the same `inner`: behind time, or all
  int64_t vector, along_time;
  int64_t lanes, segments, length;
  int64_t pitch;                  // slots of a row of shared memory
  int64_t stages, stage_bytes;    // tiles in flight, and one of them
  int64_t warps;                  // of a block
  int64_t chunk, chunks;          // steps of a chunk
  int64_t sums;                   // whether da is summed over time
  View views[kStreams];
  View state;                     // what the scan starts from: h0 or dh0; transpose: as in maps.h
  View first;                     // what stands before the first step: h0
  View out, d_decay;
};

// Of arrays; those that a map or mode does not have are null. `products` and what follows are of
// wide numbers: one for each chunk and chain, `d_state` for each chain.
struct Pointers {
  const void* views[kStreams];
  const void* state;
  const void* first;
  void* messages;                 // chained: the next block's number, then what blocks tell
  void* out;
  void* d_decay;                  // like out, or one for each chunk and chain where it is summed
  void* d_state;
  void* products;                 // the maps of chunks
  void* drives;
  int* tags;
};

}  // namespace rnnscan
