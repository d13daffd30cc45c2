// XLA FFI entry points of the selective scan: buffers to a `SelectiveProblem`.

#include "selective/problem.h"
#include "shared/level.h"
#include "shared/operands.h"

namespace rnnscan {

namespace baseline { SelectiveKernel run_selective; }
#ifdef RNNSCAN_X86_LEVELS
namespace x86_64_v3 { SelectiveKernel run_selective; }
namespace x86_64_v4 { SelectiveKernel run_selective; }
#endif

namespace {

SelectiveKernel* const kernels[] = {  // by level
    baseline::run_selective,
#ifdef RNNSCAN_X86_LEVELS
    x86_64_v3::run_selective,
    x86_64_v4::run_selective,
#endif
};

// forward:  x, delta, A, b, c, [D], [bias], h0, [reset] -> y, last, [kept]
// backward: x, delta, A, b, c, [D], [bias], kept, g_y, g_last, [reset]
//           -> dx, ddelta, dA, db, dc, [dD], [dbias], dh0
ffi::Error call_selective(bool backward, ffi::ThreadPool pool, int64_t every, bool reverse,
                          bool signs, bool softplus, bool skip, bool biased, bool resets,
                          bool keep, ffi::RemainingArgs arguments, ffi::RemainingRets results) {
  SelectiveProblem p{backward, reverse, keep && !backward, signs, softplus, every};
  Operands read{arguments, results};
  const auto x = read.shape(0), rates = read.shape(2), b = read.shape(3);
  const auto d = read.shape(skip ? 5 : 0), bias = read.shape(biased ? 5 + skip : 0);
  const auto error =
      ffi::Error::InvalidArgument("rnnscan: operands of a selective scan that do not line up");
  if (!read.good || every < 1 || x.size() != 3 || rates.size() != 3 || b.size() != 4) return error;
  const int64_t B = p.batch = x[0], T = p.steps = x[1], C = p.channels = x[2];
  const int64_t N = p.states = b[3], tiles = T > 0 ? (T - 1) / every + 1 : 0;
  p.rate_rows = rates[0];
  p.rate_states = rates[2];
  if (skip) p.skip_rows = d[0];
  if (biased) p.bias_rows = bias[0];
  const bool shared = (p.rate_rows == 1 || p.rate_rows == B) &&
                      (p.rate_states == 1 || p.rate_states == N) &&
                      (p.skip_rows == 1 || p.skip_rows == B) &&
                      (p.bias_rows == 1 || p.bias_rows == B);
  if (!shared || B < 1 || T < 1 || C < 1 || N < 1) return error;
  p.x = read.take({B, T, C});
  p.delta = read.take({B, T, C});
  p.rates = read.take({p.rate_rows, C, p.rate_states});
  p.b = read.take({B, T, 1, N});
  p.c = read.take({B, T, 1, N});
  if (skip) p.d = read.take({p.skip_rows, C});
  if (biased) p.bias = read.take({p.bias_rows, C});
  if (!backward) {
    p.h0 = read.take({B, C, N});
    p.y = read.give({B, T, C});
    p.last = read.give({B, C, N});
    if (keep) p.to_keep = read.give({B, tiles, C, N});
  } else {
    p.kept = read.take({B, tiles, C, N});
    p.g_y = read.take({B, T, C});
    p.g_last = read.take({B, C, N});
    p.d_x = read.give({B, T, C});
    p.d_delta = read.give({B, T, C});
    p.d_rates = read.give({p.rate_rows, C, p.rate_states});
    p.d_b = read.give({B, T, 1, N});
    p.d_c = read.give({B, T, 1, N});
    if (skip) p.d_skip = read.give({p.skip_rows, C});
    if (biased) p.d_bias = read.give({p.bias_rows, C});
    p.d_h0 = read.give({B, C, N});
  }
  if (resets) p.reset = read.take_flags({B, T});
  if (!read.all_taken()) return error;
  if (!kernels[level()](p, workers_of(pool))) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "rnnscan: out of memory");
  }
  return ffi::Error::Success();
}

template <bool backward>
ffi::Error entry(ffi::ThreadPool pool, int64_t every, bool reverse, bool signs, bool softplus,
                 bool skip, bool biased, bool resets, bool keep, ffi::RemainingArgs arguments,
                 ffi::RemainingRets results) {
  return call_selective(backward, pool, every, reverse, signs, softplus, skip, biased, resets, keep,
                        arguments, results);
}

auto binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Attr<int64_t>("every")
      .Attr<bool>("reverse")
      .Attr<bool>("signs")
      .Attr<bool>("softplus")
      .Attr<bool>("skip")
      .Attr<bool>("biased")
      .Attr<bool>("resets")
      .Attr<bool>("keep")
      .RemainingArgs()
      .RemainingRets();
}

}  // namespace
}  // namespace rnnscan

// The names that library.py registers.
RNNSCAN_EXPORT XLA_FFI_Error* rnnscan_selective_forward(XLA_FFI_CallFrame* frame) {
  static auto* handler = rnnscan::binding().To(rnnscan::entry<false>).release();
  return handler->Call(frame);
}
RNNSCAN_EXPORT XLA_FFI_Error* rnnscan_selective_backward(XLA_FFI_CallFrame* frame) {
  static auto* handler = rnnscan::binding().To(rnnscan::entry<true>).release();
  return handler->Call(frame);
}
