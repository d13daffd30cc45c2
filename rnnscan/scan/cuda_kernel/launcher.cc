// Launches a kernel that is given as PTX, by NVIDIA's driver: the launcher "own" of launch.py.
//
// What it needs of CUDA it looks up in the driver's library at the first launch, so that it compiles
// and loads without CUDA. A kernel is loaded once for each context (a GPU that a process uses) and
// stays. It is part of the library of the CPU kernels.

#include <dlfcn.h>

#include <cstdint>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "shared/runtime.h"

namespace rnnscan {
namespace {

// Of cuda.h.
constexpr int kErrorLog = 5;         // CU_JIT_ERROR_LOG_BUFFER
constexpr int kErrorLogBytes = 6;    // CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES
constexpr int kMostSharedBytes = 8;  // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
constexpr int64_t kSharedBytes = 48 * 1024;  // that a kernel has without asking

// Every kernel's name says which method does without it.
constexpr char kWayOut[] =
    "; the method in its name does without, RNNSCAN_CUDA_LAUNCHER=none lets `auto` do the same, and "
    "RNNSCAN_CUDA_LAUNCHER=xla launches it by other means";

struct Driver {
  int (*error_name)(int, const char**);
  int (*error_text)(int, const char**);
  int (*context_of)(void* stream, void** context);
  int (*push_context)(void*);
  int (*pop_context)(void**);
  int (*load)(void** module, const void* text, unsigned options, int* names, void** values);
  int (*find)(void** function, void* module, const char* name);
  int (*set)(void* function, int attribute, int value);
  int (*launch)(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                unsigned block_y, unsigned block_z, unsigned shared_bytes, void* stream,
                void** parameters, void** extra);

  Driver() {
    library_ = dlopen("libcuda.so.1", RTLD_NOW);
    if (!library_) {
      throw std::runtime_error(std::string("NVIDIA's driver does not load: ") + dlerror());
    }
    look_up(error_name, "cuGetErrorName");
    look_up(error_text, "cuGetErrorString");
    look_up(context_of, "cuStreamGetCtx");
    look_up(push_context, "cuCtxPushCurrent_v2");
    look_up(pop_context, "cuCtxPopCurrent_v2");
    look_up(load, "cuModuleLoadDataEx");
    look_up(find, "cuModuleGetFunction");
    look_up(set, "cuFuncSetAttribute");
    look_up(launch, "cuLaunchKernel");
  }

  void check(int code, const char* what, const char* log = "") const {
    if (!code) return;
    const char *name = nullptr, *text = nullptr;
    error_name(code, &name);
    error_text(code, &text);
    throw std::runtime_error(std::string(what) + ": " + (name ? name : std::to_string(code)) + ", " +
                             (text ? text : "an error that the driver does not know") +
                             (*log ? ": " : "") + log);
  }

 private:
  template <class F>
  void look_up(F& function, const char* name) {
    function = reinterpret_cast<F>(dlsym(library_, name));
    if (!function) throw std::runtime_error(std::string("NVIDIA's driver is too old: no ") + name);
  }

  void* library_;
};

const Driver& driver() {
  static const Driver only;  // tried again at the next launch where it throws
  return only;
}

// The context of a stream, current as long as this lives: a thread of XLA's need not have it.
struct Current {
  explicit Current(void* stream) {
    driver().check(driver().context_of(stream, &context), "cuStreamGetCtx");
    driver().check(driver().push_context(context), "cuCtxPushCurrent");
  }
  ~Current() {
    void* popped;
    driver().pop_context(&popped);
  }
  Current(const Current&) = delete;

  void* context = nullptr;
};

struct Kernel {
  std::string_view text, digest, entry;  // the digest, of the text, is what is compared
  int64_t grid, block, shared_bytes;
};

void* load(const Kernel& kernel) {
  char log[2048] = "";
  int names[] = {kErrorLog, kErrorLogBytes};
  void* values[] = {log, reinterpret_cast<void*>(sizeof log)};
  void *module = nullptr, *function = nullptr;
  const std::string text(kernel.text), entry(kernel.entry);  // which end in 0
  driver().check(driver().load(&module, text.c_str(), 2, names, values), "cuModuleLoadDataEx", log);
  driver().check(driver().find(&function, module, entry.c_str()), "cuModuleGetFunction");
  if (kernel.shared_bytes > kSharedBytes) {
    driver().check(driver().set(function, kMostSharedBytes, static_cast<int>(kernel.shared_bytes)),
                   "cuFuncSetAttribute");
  }
  return function;
}

void* loaded(void* context, const Kernel& kernel) {
  static auto& mutex = *new std::mutex;
  static auto& functions = *new std::map<std::pair<void*, std::string>, void*>;
  std::lock_guard<std::mutex> lock(mutex);
  void*& function = functions[{context, std::string(kernel.digest)}];
  if (!function) function = load(kernel);
  return function;
}

// What went wrong; empty where nothing did.
std::string launch(void* stream, const Kernel& kernel, std::vector<void*> buffers) {
  try {
    std::vector<void*> parameters;
    for (void*& buffer : buffers) parameters.push_back(&buffer);
    const Current current(stream);
    void* function = loaded(current.context, kernel);
    driver().check(driver().launch(function, kernel.grid, 1, 1, kernel.block, 1, 1,
                                   kernel.shared_bytes, stream, parameters.data(), nullptr),
                   "cuLaunchKernel");
    return "";
  } catch (const std::exception& fault) {
    return "the CUDA kernel " + std::string(kernel.entry) + " was not launched: " + fault.what() +
           kWayOut;
  }
}

ffi::Error entry(void* stream, std::string_view text, std::string_view digest,
                 std::string_view entry, int32_t grid, int32_t block, int32_t shared_bytes,
                 ffi::RemainingArgs arguments, ffi::RemainingRets results) {
  std::vector<void*> buffers;
  for (size_t i = 0; i < arguments.size(); ++i) {
    auto buffer = arguments.get<ffi::AnyBuffer>(i);
    if (!buffer) return buffer.error();
    buffers.push_back((*buffer).untyped_data());
  }
  for (size_t i = 0; i < results.size(); ++i) {
    auto buffer = results.get<ffi::AnyBuffer>(i);
    if (!buffer) return buffer.error();
    buffers.push_back((**buffer).untyped_data());
  }
  const std::string fault =
      launch(stream, {text, digest, entry, grid, block, shared_bytes}, std::move(buffers));
  return fault.empty() ? ffi::Error::Success() : ffi::Error(ffi::ErrorCode::kInternal, fault);
}

}  // namespace
}  // namespace rnnscan

// The target that library.py registers. Its parameters are the operands, then the results.
RNNSCAN_EXPORT XLA_FFI_Error* rnnscan_cuda_launch(XLA_FFI_CallFrame* frame) {
  static auto* handler = ffi::Ffi::Bind()
                             .Ctx<ffi::PlatformStream<void*>>()
                             .Attr<std::string_view>("text")
                             .Attr<std::string_view>("digest")
                             .Attr<std::string_view>("entry")
                             .Attr<int32_t>("grid")
                             .Attr<int32_t>("block")
                             .Attr<int32_t>("shared_bytes")
                             .RemainingArgs()
                             .RemainingRets()
                             .To(rnnscan::entry)
                             .release();
  return handler->Call(frame);
}

// The same without XLA, for tests; `message` has room for `room` characters.
RNNSCAN_EXPORT void rnnscan_cuda_launch_buffers(void* stream, const char* text, const char* digest,
                                                const char* entry, int64_t grid, int64_t block,
                                                int64_t shared_bytes, void** buffers, int64_t count,
                                                char* message, int64_t room) {
  const std::vector<void*> all(buffers, buffers + count);
  const std::string fault =
      rnnscan::launch(stream, {text, digest, entry, grid, block, shared_bytes}, all);
  std::strncpy(message, fault.c_str(), room - 1);
}
