// XLA FFI entry points of the recurrent cells: buffers to a `CellProblem`.

#include "cells/problem.h"
#include "shared/level.h"
#include "shared/operands.h"

namespace rnnscan {

namespace baseline { CellKernel run_cells; }
#ifdef RNNSCAN_X86_LEVELS
namespace x86_64_v3 { CellKernel run_cells; }
namespace x86_64_v4 { CellKernel run_cells; }
#endif

namespace {

CellKernel* const kernels[] = {  // by level
    baseline::run_cells,
#ifdef RNNSCAN_X86_LEVELS
    x86_64_v3::run_cells,
    x86_64_v4::run_cells,
#endif
};

// forward:  x, w_ih, bias, w_hh, [bias_hn], state, [cell], [valid], [reset] -> h, [c], [kept]
// backward: w_hh, state, [cell], h, [c], [kept], g, g_state, [g_cell], [valid], [reset]
//           -> d_drive, [d_q], d_state, [d_cell]
ffi::Error call_cell(bool backward, ffi::ThreadPool pool, int64_t kind, bool reverse, bool keep,
                     bool padded, bool resets, ffi::RemainingArgs arguments,
                     ffi::RemainingRets results) {
  CellProblem p{static_cast<Cell>(kind), backward, reverse, keep};
  Operands read{arguments, results};
  const bool lstm = p.kind == Cell::lstm, gru = p.kind == Cell::gru;
  const auto w_hh = read.shape(backward ? 0 : 3);
  const auto sequence = read.shape(backward ? (lstm ? 3 : 2) : 0);
  const auto error = ffi::Error::InvalidArgument("rnnscan: operands of a cell that do not line up");
  if (!read.good || kind < 0 || kind > 3 || w_hh.size() != 2 || sequence.size() != 3) return error;
  const int64_t B = p.batch = sequence[0], T = p.steps = sequence[1];
  const int64_t H = p.hidden = w_hh[1], G = gates_of(p.kind), K = kept_of(p.kind);
  if (!backward) {
    const int64_t I = p.inputs = sequence[2];
    p.x = read.take({B, T, I});
    p.w_ih = read.take({G * H, I});
    p.bias = read.take({G * H});
    p.w_hh = read.take({G * H, H});
    if (gru) p.bias_hn = read.take({H});
    p.state = read.take({B, H});
    if (lstm) p.cell = read.take({B, H});
    p.h = read.give({B, T, H});
    if (lstm) p.c = keep ? read.give({B, T, H}) : read.give({B, H});
    if (K && keep) p.kept = read.give({B, T, K * H});
  } else {
    p.w_hh = read.take({G * H, H});
    p.state = read.take({B, H});
    if (lstm) p.cell = read.take({B, H});
    p.h = const_cast<float*>(read.take({B, T, H}));
    if (lstm) p.c = const_cast<float*>(read.take({B, T, H}));
    if (K) p.kept = const_cast<float*>(read.take({B, T, K * H}));
    p.g = read.take({B, T, H});
    p.g_state = read.take({B, H});
    if (lstm) p.g_cell = read.take({B, H});
    p.d_drive = read.give({B, T, G * H});
    if (gru) p.d_q = read.give({B, T, H});
    p.d_state = read.give({B, H});
    if (lstm) p.d_cell = read.give({B, H});
  }
  if (padded) p.valid = read.take_flags({B, T});
  if (resets) p.reset = read.take_flags({B, T});
  if (!read.all_taken()) return error;
  if (!kernels[level()](p, workers_of(pool))) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "rnnscan: out of memory");
  }
  return ffi::Error::Success();
}

template <bool backward>
ffi::Error entry(ffi::ThreadPool pool, int64_t kind, bool reverse, bool keep, bool padded,
                 bool resets, ffi::RemainingArgs arguments, ffi::RemainingRets results) {
  return call_cell(backward, pool, kind, reverse, keep, padded, resets, arguments, results);
}

auto binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Attr<int64_t>("kind")
      .Attr<bool>("reverse")
      .Attr<bool>("keep")
      .Attr<bool>("padded")
      .Attr<bool>("resets")
      .RemainingArgs()
      .RemainingRets();
}

}  // namespace
}  // namespace rnnscan

// The names that library.py registers.
RNNSCAN_EXPORT XLA_FFI_Error* rnnscan_cell_forward(XLA_FFI_CallFrame* frame) {
  static auto* handler = rnnscan::binding().To(rnnscan::entry<false>).release();
  return handler->Call(frame);
}
RNNSCAN_EXPORT XLA_FFI_Error* rnnscan_cell_backward(XLA_FFI_CallFrame* frame) {
  static auto* handler = rnnscan::binding().To(rnnscan::entry<true>).release();
  return handler->Call(frame);
}
