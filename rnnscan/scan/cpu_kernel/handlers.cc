// XLA FFI entry points of the native CPU kernel: buffers to a `Problem`, XLA's thread pool to a
// `Pool`, and the choice of the instruction set at run time.

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>

#include "problem.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace rnnscan {

namespace baseline { Kernel run; }
#ifdef RNNSCAN_X86_LEVELS
namespace x86_64_v3 { Kernel run; }
namespace x86_64_v4 { Kernel run; }
#endif

namespace {

struct Choice {
  const char* name;
  Kernel* run;
};

// The best that this machine has. RNNSCAN_CPU_LEVEL names a lower one, for tests.
Choice choose() {
#ifdef RNNSCAN_X86_LEVELS
  const char* named = std::getenv("RNNSCAN_CPU_LEVEL");
  const std::string most = named ? named : "";
  if (most == "baseline") return {"baseline", baseline::run};
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                  __builtin_cpu_supports("bmi2");
  if (v3 && most != "x86-64-v3" && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return {"x86-64-v4", x86_64_v4::run};
  }
  if (v3) return {"x86-64-v3", x86_64_v3::run};
#endif
  return {"baseline", baseline::run};
}

const Choice& chosen() {
  static const Choice choice = choose();
  return choice;
}

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

bool read_type(ffi::DataType from, Type& to) {
  switch (from) {
    case ffi::F16: to = Type::f16; return true;
    case ffi::BF16: to = Type::bf16; return true;
    case ffi::F32: to = Type::f32; return true;
    case ffi::F64: to = Type::f64; return true;
    case ffi::C64: to = Type::c64; return true;
    case ffi::C128: to = Type::c128; return true;
    default: return false;
  }
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

// The operands of one call, in the order in which Python passes them.
struct Reader {
  Problem& problem;
  ffi::RemainingArgs& arguments;
  ffi::RemainingRets& results;
  size_t next_argument = 0, next_result = 0;
  bool good = true;

  void shape_of(ffi::AnyBuffer buffer) {
    const auto dims = buffer.dimensions();
    if (dims.size() > kMaxRank) { good = false; return; }
    if (static_cast<int>(dims.size()) > problem.rank) problem.rank = dims.size();
    for (size_t i = 0; i < dims.size(); ++i) {
      if (problem.shape[i] == 1) problem.shape[i] = dims[i];
    }
  }

  void take(Array& array, ffi::AnyBuffer buffer) {
    const auto dims = buffer.dimensions();
    array.data = buffer.untyped_data();
    array.size = 1;
    if (static_cast<int>(dims.size()) != problem.rank) { good = false; return; }
    for (int i = problem.rank - 1; i >= 0; --i) {
      array.strides[i] = dims[i] == 1 ? 0 : array.size;
      array.size *= dims[i];
      good = good && (dims[i] == 1 || dims[i] == problem.shape[i]);
    }
  }

  void argument(Array& array) {
    auto buffer = arguments.get<ffi::AnyBuffer>(next_argument++);
    if (buffer) take(array, *buffer); else good = false;
  }

  void result(Array& array) {
    auto buffer = results.get<ffi::AnyBuffer>(next_result++);
    if (!buffer) { good = false; return; }
    take(array, **buffer);
    if (good) expect_writes(array.data, (*buffer)->size_bytes());
  }
};

ffi::Error call(Kind kind, bool with_decay, ffi::ThreadPool pool, int64_t axis, bool reverse,
                ffi::RemainingArgs arguments, ffi::RemainingRets results) {
  Problem problem{};
  problem.kind = kind;
  problem.axis = static_cast<int>(axis);
  problem.reverse = reverse;
  for (int64_t& size : problem.shape) size = 1;

  Reader read{problem, arguments, results};
  for (size_t i = 0; i < arguments.size() && read.good; ++i) {
    if (auto buffer = arguments.get<ffi::AnyBuffer>(i)) read.shape_of(*buffer);
  }
  auto first = arguments.get<ffi::AnyBuffer>(0);
  if (!first || !read.good || !read_type(first->element_type(), problem.type)) {
    return ffi::Error::InvalidArgument("rnnscan: unsupported dtype or rank");
  }
  read.argument(problem.a);
  if (kind == Kind::tangent || with_decay) {
    read.argument(problem.h);
    read.argument(problem.h0);
  }
  if (kind == Kind::tangent) read.argument(problem.decay_tangent);
  read.argument(problem.drive);
  if (kind != Kind::transpose) read.argument(problem.state);
  if (read.next_argument < arguments.size()) read.argument(problem.reset);
  if (with_decay) read.result(problem.d_decay);
  read.result(problem.out);
  if (kind == Kind::transpose) read.result(problem.d_state);
  if (!read.good || read.next_argument != arguments.size() || axis < 0 || axis >= problem.rank) {
    return ffi::Error::InvalidArgument("rnnscan: operands that do not line up");
  }
  const int64_t threads = pool.num_threads();
  const Pool workers{std::max<int64_t>(threads, 1), &pool, run_on};
  if (!chosen().run(problem, workers)) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "rnnscan: out of memory");
  }
  return ffi::Error::Success();
}

template <Kind kind, bool with_decay>
ffi::Error entry(ffi::ThreadPool pool, int64_t axis, bool reverse, ffi::RemainingArgs arguments,
                 ffi::RemainingRets results) {
  return call(kind, with_decay, pool, axis, reverse, arguments, results);
}

auto binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Attr<int64_t>("axis")
      .Attr<bool>("reverse")
      .RemainingArgs()
      .RemainingRets();
}

}  // namespace
}  // namespace rnnscan

#define RNNSCAN_EXPORT extern "C" __attribute__((visibility("default")))

// The names that library.py registers.
RNNSCAN_EXPORT XLA_FFI_Error* rnnscan_forward(XLA_FFI_CallFrame* frame) {
  static auto* handler =
      rnnscan::binding().To(rnnscan::entry<rnnscan::Kind::forward, false>).release();
  return handler->Call(frame);
}
RNNSCAN_EXPORT XLA_FFI_Error* rnnscan_tangent(XLA_FFI_CallFrame* frame) {
  static auto* handler =
      rnnscan::binding().To(rnnscan::entry<rnnscan::Kind::tangent, false>).release();
  return handler->Call(frame);
}
RNNSCAN_EXPORT XLA_FFI_Error* rnnscan_transpose(XLA_FFI_CallFrame* frame) {
  static auto* handler =
      rnnscan::binding().To(rnnscan::entry<rnnscan::Kind::transpose, true>).release();
  return handler->Call(frame);
}
RNNSCAN_EXPORT XLA_FFI_Error* rnnscan_transpose_drive(XLA_FFI_CallFrame* frame) {
  static auto* handler =
      rnnscan::binding().To(rnnscan::entry<rnnscan::Kind::transpose, false>).release();
  return handler->Call(frame);
}

// What library.py reads before it registers anything.
RNNSCAN_EXPORT int rnnscan_ffi_version() { return XLA_FFI_API_MAJOR * 1000 + XLA_FFI_API_MINOR; }
RNNSCAN_EXPORT const char* rnnscan_source_hash() { return RNNSCAN_SOURCE_HASH; }
RNNSCAN_EXPORT const char* rnnscan_instruction_set() { return rnnscan::chosen().name; }
