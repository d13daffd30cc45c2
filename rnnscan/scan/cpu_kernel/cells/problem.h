// What the FFI handlers (handlers.cc) ask of the kernel of recurrent cells (kernel.cc). Plain data,
// no templates, as in shared/pool.h.

#pragma once

#include <cstdint>

#include "shared/pool.h"

namespace rnnscan {

enum class Cell { tanh, relu, lstm, gru };

constexpr int gates_of(Cell cell) { return cell == Cell::lstm ? 4 : cell == Cell::gru ? 3 : 1; }
// Numbers that the backward pass reads of each hidden unit and step, beside the states.
constexpr int kept_of(Cell cell) { return cell == Cell::lstm || cell == Cell::gru ? 4 : 0; }

// Everything is float32 and row-major: batch, time, then inputs, hidden units or gates of these.
// G gates: 1 (tanh, relu), 4 (lstm: i f g o) or 3 (gru: r z n).
//
// forward:  from inputs `x` (B, T, I), `w_ih` (G H, I), `bias` (G H), `w_hh` (G H, H), `state` and
//           `cell` (B, H; lstm) to `h` (B, T, H) and, for lstm, `c`: (B, T, H), or (B, H) with
//           `keep` off. gru: `bias_hn` (H) is what is added to W_hn h. With `keep`, `kept`
//           (B, T, 4 H) is written for the backward pass: lstm i f g o; gru r z n q, where
//           q = W_hn h + bias_hn.
// backward: from the cotangents `g` of h (B, T, H) and `g_state`, `g_cell` of the last state (B, H)
//           to those of W_ih x + bias (B, T, G H), of q (B, T, H; gru), and of state and cell.
//
// Where a step is not `valid` (B, T, bytes), the state passes; where it has a `reset` (B, T, bytes),
// which no step has that is not valid, the state before it is zeros. Absent arrays have no data.
struct CellProblem {
  Cell kind;
  bool backward;
  bool reverse;
  bool keep;
  int64_t batch, steps, inputs, hidden;
  const float *x = nullptr, *w_ih = nullptr, *bias = nullptr, *w_hh = nullptr, *bias_hn = nullptr;
  const float *state = nullptr, *cell = nullptr;
  const uint8_t *valid = nullptr, *reset = nullptr;
  float *h = nullptr, *c = nullptr, *kept = nullptr;  // backward: read, not written
  const float *g = nullptr, *g_state = nullptr, *g_cell = nullptr;
  float *d_drive = nullptr, *d_q = nullptr, *d_state = nullptr, *d_cell = nullptr;
};

// False: out of memory.
using CellKernel = bool(const CellProblem&, const Pool&);

}  // namespace rnnscan
