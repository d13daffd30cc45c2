// What the FFI handlers (handlers.cc) ask of the kernel of selective scans (kernel.cc). Plain data,
// no templates, as in shared/pool.h.

#pragma once

#include <cstdint>

#include "shared/pool.h"

namespace rnnscan {

// Everything is float32 and row-major. B rows of a batch, T steps, C channels of N states each.
//
// forward:  from `x`, `delta` (B, T, C), `rates` A (`rate_rows`, C, `rate_states`), `b`, `c`
//           (B, T, N), `d` (`skip_rows`, C) and `h0` (B, C, N) to `y` (B, T, C), `last` (B, C, N)
//           and, with `keep`, `kept` (B, ceil(T / every), C, N): the states before the steps 0,
//           every, 2 every, ... in scan order.
// backward: from `kept` and the cotangents `g_y`, `g_last` of y and last to those of the operands,
//           each of its operand's shape.
//
// rate_rows, skip_rows and bias_rows are B, or 1 for all rows; rate_states is N, or 1 for all
// states. With `softplus` times are softplus(delta + bias), of a `bias` (`bias_rows`, C). Without D,
// `d` and `d_skip` have no data, and so for the bias; without `reset` (B, T, bytes) no step forgets.
struct SelectiveProblem {
  bool backward;
  bool reverse;
  bool keep;
  bool signs;  // a = 2 exp(delta A) - 1
  bool softplus;
  int64_t every;
  int64_t batch, steps, channels, states, rate_rows, rate_states, skip_rows = 1, bias_rows = 1;
  const float *x = nullptr, *delta = nullptr, *rates = nullptr, *b = nullptr, *c = nullptr;
  const float *d = nullptr, *bias = nullptr, *h0 = nullptr, *kept = nullptr, *g_y = nullptr, *g_last = nullptr;
  const uint8_t* reset = nullptr;
  float *y = nullptr, *last = nullptr, *to_keep = nullptr;
  float *d_x = nullptr, *d_delta = nullptr, *d_rates = nullptr, *d_b = nullptr, *d_c = nullptr;
  float *d_skip = nullptr, *d_bias = nullptr, *d_h0 = nullptr;
};

// False: out of memory.
using SelectiveKernel = bool(const SelectiveProblem&, const Pool&);

}  // namespace rnnscan
