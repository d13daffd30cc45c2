// The selective scan (the recurrence of Mamba, arXiv:2312.00752) on a CPU, forward and back:
//
//   h_t = exp(delta_t A) h_{t-1} + delta_t x_t b_t,   y_t = h_t c_t + D x_t
//
// with N states to each channel. Decays, drives and states are N times as large as x and y, and are
// never in memory: layout.h says how the work lies, exponential.h what most of it is. The backward
// pass computes the states again, from those that were kept every so many steps.
//
// Threads divide the rows of the batch and, where these are too few, the channels. What is summed
// over either is summed by parts and in their order, so that a result does not depend on which
// thread was faster.

#include "selective/backward.h"
#include "selective/forward.h"

namespace rnnscan {
namespace KERNEL_NAMESPACE {

SelectiveKernel run_selective;

namespace {

struct Memory {
  float* data;
  explicit Memory(int64_t count) : data(count ? new_floats(count) : nullptr) {}
  ~Memory() { std::free(data); }
};

template <class Body>
void run_items(const Pool& pool, int64_t items, const Body& body) {
  pool.run(
      pool.self, pool.threads, items,
      [](void* data, int64_t item, int64_t worker) {
        (*static_cast<const Body*>(data))(item, worker);
      },
      const_cast<Body*>(&body));
}

// out = the sum of `count` arrays of n numbers, one behind the other.
void sum_arrays(const Pool& pool, float* out, const float* arrays, int64_t count, int64_t n) {
  constexpr int64_t kSlice = 4096;
  const auto slice = [=](int64_t item, int64_t) {
    const int64_t begin = item * kSlice, size = min(kSlice, n - begin);
    double sums[kSlice] = {};
    for (int64_t k = 0; k < count; ++k) {
      for (int64_t i = 0; i < size; ++i) sums[i] += arrays[k * n + begin + i];
    }
    for (int64_t i = 0; i < size; ++i) out[begin + i] = static_cast<float>(sums[i]);
  };
  run_items(pool, ceil_div(n, kSlice), slice);
}

bool run_forward(const SelectiveProblem& p, const Pool& pool) {
  const Layout layout(p, pool.threads);
  const Forward forward{layout};
  const int64_t items = p.batch * layout.parts, size = forward.scratch();
  const Memory scratch(min(pool.threads, items) * size);
  if (!scratch.data) return false;
  const auto body = [&](int64_t item, int64_t worker) {
    const int64_t row = item / layout.parts, part = item % layout.parts;
    const int64_t begin = layout.part_begin(part), end = layout.part_begin(part + 1);
    float* memory = scratch.data + worker * size;
    if (p.signs) {
      forward.run<true>(row, begin, end, memory);
    } else {
      forward.run<false>(row, begin, end, memory);
    }
  };
  run_items(pool, items, body);
  return true;
}

bool run_backward(const SelectiveProblem& p, const Pool& pool) {
  const Layout layout(p, pool.threads);
  const int64_t sequences = p.batch * p.steps * p.states, parts = layout.parts;
  const int64_t rates = p.channels * p.rate_states;
  const bool sum_rates = p.rate_rows < p.batch, sum_skip = p.d && p.skip_rows < p.batch;
  const bool sum_bias = p.bias && p.bias_rows < p.batch;
  const bool sum_parts = parts > 1;
  const Memory d_b(sum_parts ? parts * sequences : 0), d_c(sum_parts ? parts * sequences : 0);
  const Memory d_rates(sum_rates ? p.batch * rates : 0);
  const Memory d_skip(sum_skip ? p.batch * p.channels : 0);
  const Memory d_bias(sum_bias ? p.batch * p.channels : 0);
  const Backward backward{layout, sum_parts ? d_b.data : p.d_b, sum_parts ? d_c.data : p.d_c,
                          sum_rates ? d_rates.data : p.d_rates,
                          sum_skip ? d_skip.data : p.d_skip, sum_bias ? d_bias.data : p.d_bias};
  const int64_t items = p.batch * parts, size = backward.scratch();
  const Memory scratch(min(pool.threads, items) * size);
  const bool room = scratch.data && backward.d_b && backward.d_c && backward.d_rates &&
                    (backward.d_skip || !p.d) && (backward.d_bias || !p.bias);
  if (!room) return false;
  const auto body = [&](int64_t item, int64_t worker) {
    float* memory = scratch.data + worker * size;
    if (p.signs) {
      backward.run<true>(item / parts, item % parts, memory);
    } else {
      backward.run<false>(item / parts, item % parts, memory);
    }
  };
  run_items(pool, items, body);
  if (sum_parts) {
    sum_arrays(pool, p.d_b, d_b.data, parts, sequences);
    sum_arrays(pool, p.d_c, d_c.data, parts, sequences);
  }
  if (sum_rates) sum_arrays(pool, p.d_rates, d_rates.data, p.batch, rates);
  if (sum_skip) sum_arrays(pool, p.d_skip, d_skip.data, p.batch, p.channels);
  if (sum_bias) sum_arrays(pool, p.d_bias, d_bias.data, p.batch, p.channels);
  return true;
}

}  // namespace

bool run_selective(const SelectiveProblem& problem, const Pool& pool) {
  return problem.backward ? run_backward(problem, pool) : run_forward(problem, pool);
}

}  // namespace KERNEL_NAMESPACE
}  // namespace rnnscan
