// What the entry points share: XLA's thread pool as a `Pool`, and memory for results.

#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>

#include "shared/pool.h"
#include "xla/ffi/api/ffi.h"

#define RNNSCAN_EXPORT extern "C" __attribute__((visibility("default")))

namespace ffi = xla::ffi;

namespace rnnscan {
namespace {

constexpr int kSpins = 1000;  // some ten microseconds

void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Items are claimed one by one, by the caller too: it never waits for a thread that has not begun,
// so it may itself be a thread of the pool, and the only one.
struct Claims {
  int64_t items;
  Pool::Task* task;
  void* data;
  std::atomic<int64_t> workers{0}, next{0}, done{0};
  std::mutex mutex;
  std::condition_variable all_done;

  void work() {
    const int64_t worker = workers++;
    for (int64_t i = next++; i < items; i = next++) {
      task(data, i, worker);
      if (done.fetch_add(1, std::memory_order_acq_rel) + 1 == items) {
        std::lock_guard<std::mutex> lock(mutex);
        all_done.notify_all();
      }
    }
  }

  bool complete() const { return done.load(std::memory_order_acquire) >= items; }

  // What is left is in progress elsewhere and ends soon, so a moment's spinning is the fastest. But
  // a thread that went on spinning would hold the core on which the other one may wait to run.
  void wait() {
    for (int spins = 0; spins < kSpins; ++spins) {
      if (complete()) return;
      pause_briefly();
    }
    std::unique_lock<std::mutex> lock(mutex);
    all_done.wait(lock, [this] { return complete(); });
  }
};

void run_on(void* self, int64_t threads, int64_t items, Pool::Task* task, void* data) {
  auto* pool = static_cast<ffi::ThreadPool*>(self);
  auto claims = std::make_shared<Claims>();
  claims->items = items;
  claims->task = task;
  claims->data = data;
  const int64_t helpers = std::min(items, threads) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool->Schedule([claims] { claims->work(); });
  claims->work();
  claims->wait();
}

Pool workers_of(ffi::ThreadPool& pool) {
  return {std::max<int64_t>(pool.num_threads(), 1), &pool, run_on};
}

// Fresh memory of a large result comes page by page while it is written, which takes several times
// as long as writing it. Huge pages are fewer by a factor of 512.
void expect_writes(void* data, size_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t huge = 2 << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + huge - 1) / huge * huge;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / huge * huge;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace
}  // namespace rnnscan
