// Recurrent cells on a CPU: h_t = cell(W_ih x_t, W_hh h_{t-1}), one step after another.
//
// The two products are what a step costs. A library that is called for them packs its operands and
// wakes threads once for each step; here the weights are packed once for all steps, into *panels*:
// of some hidden units, all gates, laid out in the order in which they are read. A panel is
// multiplied by a few rows of the batch at a time, the sums stay in registers, and the activations
// are applied to them there: neither drives nor gates are written, unless the backward pass is to
// read them.
//
// Threads divide the batch, so they never wait for each other. (Rows of a batch are independent;
// hidden units are not, and threads that divided those would have to meet at every step.)
//
// The backward pass is the same loop from the other end, with l = dh the cotangent of the state:
//
//   tanh, relu   du = l phi'
//   lstm         do = l tanh(c), dc = dc_+ f_+ + l o (1 - tanh(c)^2), di = dc g, df = dc c_-, dg = dc i
//   gru          dn = l (1 - z), dz = l (h_- - n), dq = dn n' r, dr = dn n' q
//
// each times the slope of its activation, and l_- = g_- + W_hh^T (all of them).
// The gradients of the weights are products over all steps at once, left to the caller.

#include "cells/activations.h"
#include "cells/problem.h"

namespace rnnscan {
namespace KERNEL_NAMESPACE {

CellKernel run_cells;

namespace {

constexpr int kPanel = 4;  // vectors: the most that a panel holds of each row
constexpr int kRows = VECTOR_BYTES == 64 ? 6 : 3;  // of the batch: their sums fill the registers

// Outputs of a product, `vectors` vectors at a time: panel[term][gate][unit].
//
// W has an output for each gate of each unit; `row` and `column` are the distances in W between
// outputs and between the terms of their sums.
struct Panels {
  float* data = nullptr;
  int64_t terms = 0, width = 0, count = 0, size = 0;

  bool pack(const float* w, int64_t row, int64_t column, int gates, int64_t units, int64_t n) {
    terms = n;
    width = (gates == 1 ? kPanel : 1) * L;
    count = ceil_div(units, width);
    size = terms * gates * width;
    data = new_floats(count * size);
    if (!data) return false;
    for (int64_t panel = 0; panel < count; ++panel) {
      for (int gate = 0; gate < gates; ++gate) {
        for (int64_t j = 0; j < width; ++j) {
          const int64_t unit = panel * width + j;
          const float* from = w + (gate * units + unit) * row;
          float* to = data + panel * size + gate * width + j;
          for (int64_t k = 0; k < terms; ++k) {
            to[k * gates * width] = unit < units ? from[k * column] : 0;
          }
        }
      }
    }
    return true;
  }

  const float* at(int64_t panel, int64_t term, int gates) const {
    return data + panel * size + term * gates * width;
  }
};

// sums[r][i] += x[r][k] panel[k][i], over k.
//
// An addition waits for the one before it, so few rows have several sums each, of every so many terms.
template <int rows, int vectors>
INLINE void multiply(V (&sums)[rows][vectors], const float* x, int64_t stride, const float* panel,
                     int64_t terms) {
  constexpr int chains = rows == 1 ? 4 : rows == 2 ? 2 : 1;
  V local[chains][rows][vectors] = {};  // or a compiler may keep the sums in memory
  int64_t k = 0;
  for (; k + chains <= terms; k += chains) {
#pragma GCC unroll 8
    for (int chain = 0; chain < chains; ++chain) {
      V w[vectors];
#pragma GCC unroll 8
      for (int i = 0; i < vectors; ++i) w[i] = load<V>(panel + ((k + chain) * vectors + i) * L);
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        const V factor = same(x[r * stride + k + chain]);
#pragma GCC unroll 8
        for (int i = 0; i < vectors; ++i) local[chain][r][i] += factor * w[i];
      }
    }
  }
  for (; k < terms; ++k) {
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
      for (int i = 0; i < vectors; ++i) {
        local[0][r][i] += x[r * stride + k] * load<V>(panel + (k * vectors + i) * L);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < vectors; ++i) {
#pragma GCC unroll 8
      for (int chain = 0; chain < chains; ++chain) sums[r][i] += local[chain][r][i];
    }
  }
}

// What both directions share: where things are, and which rows are computed together.
template <Cell kind>
struct Run {
  static constexpr int G = gates_of(kind), K = kept_of(kind);

  const CellProblem& p;
  const int64_t T = p.steps, I = p.inputs, H = p.hidden;

  explicit Run(const CellProblem& problem) : p(problem) {}

  // Positions of a step and of the one before it in scan order; that is -1 at the first step.
  int64_t place(int64_t step) const { return p.reverse ? T - 1 - step : step; }
  int64_t place_before(int64_t step) const { return step == 0 ? -1 : place(step - 1); }

  bool passes(int64_t row, int64_t t) const { return p.valid && !p.valid[row * T + t]; }
  bool resets(int64_t row, int64_t t) const { return p.reset && p.reset[row * T + t]; }

  // Zeros in `states` (B, H) for the rows [low, high) that have a reset at this step.
  void forget(float* states, int64_t low, int64_t high, int64_t step) const {
    if (!p.reset) return;
    for (int64_t row = low; row < high; ++row) {
      if (resets(row, place(step))) std::memset(states + row * H, 0, H * sizeof(float));
    }
  }

  // body.block<n>(row, ...) for the rows [low, high), in blocks of n <= kRows, as even as can be.
  template <class Body, class... Arguments>
  static INLINE void over_rows(const Body& body, int64_t low, int64_t high, Arguments... rest) {
    const int64_t rows = high - low, blocks = ceil_div(rows, kRows);
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t from = low + rows * b / blocks, to = low + rows * (b + 1) / blocks;
      of_height<kRows>(body, to - from, from, rest...);
    }
  }
  template <int n, class Body, class... Arguments>
  static INLINE void of_height(const Body& body, int64_t height, Arguments... rest) {
    if (height == n) {
      body.template block<n>(rest...);
    } else if constexpr (n > 1) {
      of_height<n - 1>(body, height, rest...);
    }
  }
};

template <Cell kind>
struct Forward : Run<kind> {
  using Base = Run<kind>;
  using Base::G, Base::H, Base::I, Base::p, Base::T, Base::passes, Base::resets;
  static constexpr int U = G == 1 ? kPanel : 1, vectors = G * U;

  Panels of_input, of_state;
  float* states[2] = {};  // (B, H): before and after a step, in turns
  // With few rows at a time, a product is bound by reading its panel. So W_ih x + bias is computed
  // ahead, kAhead steps in place of rows: drives[row][step][panel][vector].
  static constexpr int64_t kAhead = 4 * kRows;
  bool ahead = false;
  float* drives = nullptr;

  using Base::Base;
  ~Forward() {
    std::free(of_input.data);
    std::free(of_state.data);
    std::free(states[0]);
    std::free(drives);
  }

  int64_t drive_width() const { return of_state.count * vectors * L; }
  float* drive_of(int64_t row, int64_t step, int64_t panel) const {
    return drives + (row * kAhead + step % kAhead) * drive_width() + panel * vectors * L;
  }

  bool prepare(int64_t rows_at_a_time) {
    states[0] = new_floats(2 * p.batch * H);
    states[1] = states[0] + p.batch * H;
    const bool packed = states[0] && of_input.pack(p.w_ih, I, 1, G, H, I) &&
                        of_state.pack(p.w_hh, H, 1, G, H, H);
    ahead = 2 * rows_at_a_time <= kRows;
    if (packed && ahead) drives = new_floats(p.batch * kAhead * drive_width());
    return packed && (drives || !ahead);
  }

  void rows(int64_t low, int64_t high) const {
    std::memcpy(states[0] + low * H, p.state + low * H, (high - low) * H * sizeof(float));
    for (int64_t step = 0; step < T; ++step) {
      this->forget(states[step & 1], low, high, step);
      if (ahead && step % kAhead == 0) {
        for (int64_t panel = 0; panel < of_input.count; ++panel) {
          for (int64_t row = low; row < high; ++row) {
            Base::over_rows(Ahead{*this}, step, min(step + kAhead, T), row, panel);
          }
        }
      }
      for (int64_t panel = 0; panel < of_state.count; ++panel) {
        Base::over_rows(*this, low, high, step, panel);
      }
    }
  }

  // sums = W_ih x + bias for n inputs, `stride` apart.
  template <int n>
  INLINE void drive(V (&sums)[n][vectors], const float* x, int64_t stride, int64_t panel) const {
    V start[vectors];
#pragma GCC unroll 8
    for (int i = 0; i < vectors; ++i) {
      const int64_t unit = (panel * U + i % U) * L;
      start[i] = unit < H ? load_some(p.bias + i / U * H + unit, H - unit) : V{};
    }
#pragma GCC unroll 8
    for (int r = 0; r < n; ++r) {
#pragma GCC unroll 8
      for (int i = 0; i < vectors; ++i) sums[r][i] = start[i];
    }
    multiply(sums, x, stride, of_input.at(panel, 0, G), I);
  }

  struct Ahead {
    const Forward& run;

    template <int n>
    INLINE void block(int64_t step, int64_t row, int64_t panel) const {
      V sums[n][vectors];
      const float* x = run.p.x + (row * run.T + run.place(step)) * run.I;
      run.drive(sums, x, run.p.reverse ? -run.I : run.I, panel);
#pragma GCC unroll 8
      for (int r = 0; r < n; ++r) {
#pragma GCC unroll 8
        for (int i = 0; i < vectors; ++i) {
          store(run.drive_of(row, step + r, panel) + i * L, sums[r][i]);
        }
      }
    }
  };

  template <int n>
  INLINE void block(int64_t row, int64_t step, int64_t panel) const {
    const int64_t t = this->place(step), first = panel * U * L;
    const float* before = states[step & 1] + row * H;
    V sums[n][vectors];
    if (ahead) {
#pragma GCC unroll 8
      for (int r = 0; r < n; ++r) {
#pragma GCC unroll 8
        for (int i = 0; i < vectors; ++i) {
          sums[r][i] = load<V>(drive_of(row + r, step, panel) + i * L);
        }
      }
    } else {
      drive(sums, p.x + (row * T + t) * I, T * I, panel);
    }
    V of_x[n];
    if constexpr (kind == Cell::gru) {  // what x and h add to n is kept apart
      const V bias = load_some(p.bias_hn + first, H - first);
#pragma GCC unroll 8
      for (int r = 0; r < n; ++r) {
        of_x[r] = sums[r][2];
        sums[r][2] = bias;
      }
    }
    multiply(sums, before, H, of_state.at(panel, 0, G), H);
#pragma GCC unroll 8
    for (int r = 0; r < n; ++r) {
#pragma GCC unroll 8
      for (int u = 0; u < U; ++u) {
        const int64_t unit = first + u * L;
        V z[G];
#pragma GCC unroll 8
        for (int gate = 0; gate < G; ++gate) z[gate] = sums[r][gate * U + u];
        if (unit < H) finish(z, of_x[r], row + r, step, unit);
      }
    }
  }

  INLINE void finish(const V (&z)[G], V of_x, int64_t row, int64_t step, int64_t unit) const {
    const int64_t t = this->place(step), n = H - unit;
    const bool pass = passes(row, t);
    const V old = load_some(states[step & 1] + row * H + unit, n);
    V h, kept[4] = {};
    if constexpr (kind == Cell::tanh) {
      h = hyperbolic_tangent(z[0]);
    } else if constexpr (kind == Cell::relu) {
      h = z[0] < V{} ? V{} : z[0];
    } else if constexpr (kind == Cell::lstm) {
      const int64_t before = this->place_before(step);
      const float* c_old = p.keep && before >= 0 ? p.c + (row * T + before) * H
                           : step == 0           ? p.cell + row * H
                                                 : p.c + row * H;
      const V was = resets(row, t) ? V{} : load_some(c_old + unit, n);
      kept[0] = sigmoid(z[0]);
      kept[1] = sigmoid(z[1]);
      kept[2] = hyperbolic_tangent(z[2]);
      kept[3] = sigmoid(z[3]);
      V c = kept[1] * was + kept[0] * kept[2];
      h = kept[3] * hyperbolic_tangent(c);
      if (pass) c = was;
      store_some(p.c + (p.keep ? (row * T + t) * H : row * H) + unit, c, n);
    } else {
      kept[0] = sigmoid(z[0]);
      kept[1] = sigmoid(z[1]);
      kept[2] = hyperbolic_tangent(of_x + kept[0] * z[2]);
      kept[3] = z[2];
      h = kept[2] + kept[1] * (old - kept[2]);
    }
    if (pass) h = old;
    store_some(states[~step & 1] + row * H + unit, h, n);
    store_some(p.h + (row * T + t) * H + unit, h, n);
    if (Base::K && p.keep) {
      float* to = p.kept + (row * T + t) * 4 * H + unit;
      for (int k = 0; k < 4; ++k) store_some(to + k * H, kept[k], n);
    }
  }
};

template <Cell kind>
struct Backward : Run<kind> {
  using Base = Run<kind>;
  using Base::G, Base::H, Base::K, Base::p, Base::T, Base::passes, Base::resets;
  static constexpr int64_t Z = G;  // products that flow back through W_hh, a unit

  Panels panels;
  float* flowing = nullptr;  // (B, Z H): those of the step at hand

  using Base::Base;
  ~Backward() {
    std::free(panels.data);
    std::free(flowing);
  }

  bool prepare(int64_t) {
    flowing = new_floats(p.batch * Z * H);
    return flowing && panels.pack(p.w_hh, 1, H, 1, H, Z * H);
  }

  // d_state and d_cell hold what flows back into the step at hand.
  void rows(int64_t low, int64_t high) const {
    const size_t bytes = (high - low) * H * sizeof(float);
    std::memcpy(p.d_state + low * H, p.g_state + low * H, bytes);
    if (kind == Cell::lstm) std::memcpy(p.d_cell + low * H, p.g_cell + low * H, bytes);
    for (int64_t step = T - 1; step >= 0; --step) {
      for (int64_t row = low; row < high; ++row) {
        for (int64_t unit = 0; unit < H; unit += L) slopes(row, step, unit);
      }
      for (int64_t panel = 0; panel < panels.count; ++panel) {
        Base::over_rows(*this, low, high, step, panel);
      }
      this->forget(p.d_state, low, high, step);
      if (kind == Cell::lstm) this->forget(p.d_cell, low, high, step);
    }
  }

  INLINE void slopes(int64_t row, int64_t step, int64_t unit) const {
    const int64_t t = this->place(step), before = this->place_before(step);
    const int64_t at = row * T + t, n = H - unit;
    float* carried = p.d_state + row * H + unit;
    const V l = load_some(p.g + at * H + unit, n) + load_some(carried, n);
    V du[G] = {}, q{}, stays{};
    const bool first = resets(row, t);  // of a sequence: what was before it are zeros
    if (passes(row, t)) {
      stays = l;
    } else if constexpr (kind == Cell::tanh) {
      const V h = load_some(p.h + at * H + unit, n);
      du[0] = l * (1 - h * h);
    } else if constexpr (kind == Cell::relu) {
      const V h = load_some(p.h + at * H + unit, n);
      du[0] = h > V{} ? l : V{};
    } else if constexpr (kind == Cell::lstm) {
      const float* kept = p.kept + at * 4 * H + unit;
      const V i = load_some(kept, n), f = load_some(kept + H, n);
      const V g = load_some(kept + 2 * H, n), o = load_some(kept + 3 * H, n);
      const float* c_old = before < 0 ? p.cell + row * H : p.c + (row * T + before) * H;
      const V tanh_c = hyperbolic_tangent(load_some(p.c + at * H + unit, n));
      float* d_cell = p.d_cell + row * H + unit;
      const V dc = load_some(d_cell, n) + l * o * (1 - tanh_c * tanh_c);
      du[0] = dc * g * (i * (1 - i));
      du[1] = dc * (first ? V{} : load_some(c_old + unit, n)) * (f * (1 - f));
      du[2] = dc * i * (1 - g * g);
      du[3] = l * tanh_c * (o * (1 - o));
      store_some(d_cell, dc * f, n);
    } else {
      const float* kept = p.kept + at * 4 * H + unit;
      const V r = load_some(kept, n), z = load_some(kept + H, n);
      const V c = load_some(kept + 2 * H, n), s = load_some(kept + 3 * H, n);
      const float* h_old = before < 0 ? p.state + row * H : p.h + (row * T + before) * H;
      const V dn = l * (1 - z) * (1 - c * c);
      du[0] = dn * s * (r * (1 - r));
      du[1] = l * ((first ? V{} : load_some(h_old + unit, n)) - c) * (z * (1 - z));
      du[2] = dn;
      q = dn * r;
      stays = l * z;
    }
    store_some(carried, stays, n);  // the product is added to it
    for (int k = 0; k < G; ++k) {
      store_some(p.d_drive + (at * G + k) * H + unit, du[k], n);
      const V flows = kind == Cell::gru && k == 2 ? q : du[k];
      store_some(flowing + (row * Z + k) * H + unit, flows, n);
    }
    if (kind == Cell::gru) store_some(p.d_q + at * H + unit, q, n);
  }

  template <int n>
  INLINE void block(int64_t row, int64_t step, int64_t panel) const {
    V sums[n][kPanel] = {};
    multiply(sums, flowing + row * Z * H, Z * H, panels.at(panel, 0, 1), Z * H);
#pragma GCC unroll 8
    for (int r = 0; r < n; ++r) {
#pragma GCC unroll 8
      for (int i = 0; i < kPanel; ++i) {
        const int64_t unit = (panel * kPanel + i) * L;
        if (unit >= H) break;
        float* to = p.d_state + (row + r) * H + unit;
        store_some(to, load_some(to, H - unit) + sums[r][i], H - unit);
      }
    }
  }
};

template <class R>
bool run_all(const CellProblem& problem, const Pool& pool) {
  R run(problem);
  const int64_t parts = max(1, min(pool.threads, problem.batch));
  if (!run.prepare(ceil_div(problem.batch, parts))) return false;
  if (parts == 1) {
    run.rows(0, problem.batch);
    return true;
  }
  struct Call {
    const R& run;
    int64_t batch, parts;
  } call{run, problem.batch, parts};
  pool.run(
      pool.self, parts, parts,
      [](void* data, int64_t part, int64_t) {
        const auto& call = *static_cast<Call*>(data);
        call.run.rows(call.batch * part / call.parts, call.batch * (part + 1) / call.parts);
      },
      &call);
  return true;
}

template <Cell kind>
bool run_kind(const CellProblem& problem, const Pool& pool) {
  return problem.backward ? run_all<Backward<kind>>(problem, pool)
                          : run_all<Forward<kind>>(problem, pool);
}

}  // namespace

bool run_cells(const CellProblem& problem, const Pool& pool) {
  switch (problem.kind) {
    case Cell::tanh: return run_kind<Cell::tanh>(problem, pool);
    case Cell::relu: return run_kind<Cell::relu>(problem, pool);
    case Cell::lstm: return run_kind<Cell::lstm>(problem, pool);
    case Cell::gru: return run_kind<Cell::gru>(problem, pool);
  }
  return false;
}

}  // namespace KERNEL_NAMESPACE
}  // namespace rnnscan
