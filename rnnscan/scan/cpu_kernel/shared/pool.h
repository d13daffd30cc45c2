// The threads that a kernel is given. Plain data, no templates, here and in every problem.h: what
// handlers and kernels both include is compiled for several instruction sets, and code for one must
// not be linked into another's by way of a shared inline function.

#pragma once

#include <cstdint>

namespace rnnscan {

// Runs task(data, item, worker) for each item in [0, items), on several threads where there are some.
// Items are begun in order; workers that run side by side have different numbers below `threads`.
struct Pool {
  using Task = void(void* data, int64_t item, int64_t worker);
  int64_t threads;
  void* self;
  void (*run)(void* self, int64_t threads, int64_t items, Task* task, void* data);
};

}  // namespace rnnscan
