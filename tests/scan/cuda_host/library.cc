// A kernel as a function to call: RNNSCAN_KERNEL is the header that has it, RNNSCAN_PROBLEM the one
// that says what it is asked, and each TYPE_<type> that is defined is compiled.

#define RNNSCAN_DEVICE "host.h"

#include <cstdio>
#include <mutex>

#include "host.h"
#include RNNSCAN_PROBLEM

namespace rnnscan {
static Problem problem;
}

#include RNNSCAN_KERNEL

namespace rnnscan {
namespace {

template <class N>
void run_kernel(const void* at) { run<N>(*static_cast<const Pointers*>(at)); }

void (*kernel_of(int64_t type))(const void*) {
  switch (static_cast<Type>(type)) {
#ifdef TYPE_f16
    case Type::f16: return run_kernel<F16>;
#endif
#ifdef TYPE_bf16
    case Type::bf16: return run_kernel<BF16>;
#endif
#ifdef TYPE_f32
    case Type::f32: return run_kernel<F32>;
#endif
#ifdef TYPE_f64
    case Type::f64: return run_kernel<F64>;
#endif
#ifdef TYPE_c64
    case Type::c64: return run_kernel<C64>;
#endif
#ifdef TYPE_c128
    case Type::c128: return run_kernel<C128>;
#endif
    default: return nullptr;
  }
}

std::mutex one_at_a_time;

}  // namespace
}  // namespace rnnscan

extern "C" int64_t rnnscan_host_numbers() { return sizeof(rnnscan::Problem) / sizeof(int64_t); }
extern "C" int64_t rnnscan_host_pointers() { return sizeof(rnnscan::Pointers) / sizeof(void*); }

// 0, or 1 and a message. `pointers` are those of `Pointers`, in its order.
extern "C" int rnnscan_host_run(const int64_t* problem, int64_t numbers, void* const* pointers,
                                int64_t grid, int64_t block, int64_t shared_bytes, uint64_t seed,
                                int64_t* bytes_read, int64_t* bytes_written, char* message,
                                int64_t message_size) {
  const std::lock_guard<std::mutex> lock(rnnscan::one_at_a_time);
  const char* fault = nullptr;
  if (numbers != rnnscan_host_numbers()) {
    fault = "the problem has another number of numbers";
  } else {
    memcpy(&rnnscan::problem, problem, sizeof(rnnscan::Problem));
    rnnscan::Pointers at;
    memcpy(&at, pointers, sizeof(at));
    const auto kernel = rnnscan::kernel_of(rnnscan::problem.type);
    fault = kernel ? rnnscan::host::launch(kernel, &at, grid, block, shared_bytes, seed, bytes_read,
                                           bytes_written)
                   : "a type that was not compiled";
  }
  if (fault) snprintf(message, message_size, "%s", fault);
  return fault != nullptr;
}
