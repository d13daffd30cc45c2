// What the FFI handlers (handlers.cc) ask of the kernel of the elementwise scan (kernel.cc). Plain
// data, no templates, as in shared/pool.h.

#pragma once

#include <cstdint>

#include "linear/maps.h"
#include "shared/pool.h"

namespace rnnscan {

constexpr int kMaxRank = 32;

// Row-major data that broadcasts: a stride (in elements) is 0 where the array has size 1.
struct Array {
  void* data = nullptr;
  int64_t strides[kMaxRank] = {};
  int64_t size = 0;
};

// One of the maps; absent arrays have no data. da and dh0 are summed over the axes that they broadcast.
struct Problem {
  Kind kind;
  Type type;
  int rank;
  int axis;
  bool reverse;
  int64_t shape[kMaxRank];
  Array a;
  Array drive;          // b, db or g
  Array state;          // what the scan starts from: h0 or dh0; transpose: what later steps send
  Array h, h0;          // tangent, transpose
  Array decay_tangent;  // tangent: da
  Array reset;          // one byte a flag
  Array out;            // h, dh or db
  Array d_decay, d_state;  // transpose: da, dh0
};

// False: out of memory.
using Kernel = bool(const Problem&, const Pool&);

}  // namespace rnnscan
