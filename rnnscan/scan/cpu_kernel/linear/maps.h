// The maps of the elementwise scan, and the numbers that they are of: for CPUs and GPUs alike.
//
//   forward:    h_t  = a_t h_{t-1} + b_t
//   tangent:    dh_t = a_t dh_{t-1} + db_t + da_t h_{t-1}
//   transpose:  l_t  = g_t + a_{t+1} l_{t+1},  db_t = l_t,  da_t = l_t h_{t-1},  dh0 = a_0 l_0
//               where l_{T-1} = g_{T-1}, or, of a part of time, with what later steps send back
//
// Where a step resets, the past and a_t do not enter.

#pragma once

namespace rnnscan {

enum class Kind { forward, tangent, transpose };
enum class Type { f16, bf16, f32, f64, c64, c128 };

}  // namespace rnnscan
