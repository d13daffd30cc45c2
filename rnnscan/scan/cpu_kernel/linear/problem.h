// What the FFI handlers (handlers.cc) ask of the kernel of the elementwise scan (kernel.cc). Plain
// data, no templates, as in shared/pool.h.

#pragma once

#include <cstdint>

#include "shared/pool.h"

namespace rnnscan {

constexpr int kMaxRank = 32;

enum class Kind { forward, tangent, transpose };
enum class Type { f16, bf16, f32, f64, c64, c128 };

// Row-major data that broadcasts: a stride (in elements) is 0 where the array has size 1.
struct Array {
  void* data = nullptr;
  int64_t strides[kMaxRank] = {};
  int64_t size = 0;
};

// forward:    h_t  = a_t h_{t-1} + b_t                          out = h
// tangent:    dh_t = a_t dh_{t-1} + db_t + da_t h_{t-1}         out = dh
// transpose:  l_t  = g_t + a_{t+1} l_{t+1}                      out = db = l
//             da_t = l_t h_{t-1}, dh0 = a_0 l_0, each summed over the axes that it broadcasts
//
// Where a step resets, the past and a_t do not enter. Absent arrays have no data.
struct Problem {
  Kind kind;
  Type type;
  int rank;
  int axis;
  bool reverse;
  int64_t shape[kMaxRank];
  Array a;
  Array drive;          // b, db or g
  Array state;          // what the scan starts from: h0 or dh0
  Array h, h0;          // tangent, transpose
  Array decay_tangent;  // tangent: da
  Array reset;          // one byte a flag
  Array out;
  Array d_decay, d_state;  // transpose: da, dh0
};

// False: out of memory.
using Kernel = bool(const Problem&, const Pool&);

}  // namespace rnnscan
