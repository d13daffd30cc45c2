// XLA FFI entry points of the elementwise scan: buffers to a `Problem`.

#include "linear/problem.h"
#include "shared/level.h"
#include "shared/runtime.h"

namespace rnnscan {

namespace baseline { Kernel run; }
#ifdef RNNSCAN_X86_LEVELS
namespace x86_64_v3 { Kernel run; }
namespace x86_64_v4 { Kernel run; }
#endif

namespace {

Kernel* const kernels[] = {  // by level
    baseline::run,
#ifdef RNNSCAN_X86_LEVELS
    x86_64_v3::run,
    x86_64_v4::run,
#endif
};

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

// a, [h, h0], [da], drive, [state], [reset] -> [da], out, [d_state]; `starts`: there is a state.
ffi::Error call(Kind kind, bool with_decay, ffi::ThreadPool pool, int64_t axis, bool reverse,
                bool starts, ffi::RemainingArgs arguments, ffi::RemainingRets results) {
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
  if (starts) read.argument(problem.state);
  if (read.next_argument < arguments.size()) read.argument(problem.reset);
  if (with_decay) read.result(problem.d_decay);
  read.result(problem.out);
  if (kind == Kind::transpose) read.result(problem.d_state);
  if (!read.good || read.next_argument != arguments.size() || axis < 0 || axis >= problem.rank) {
    return ffi::Error::InvalidArgument("rnnscan: operands that do not line up");
  }
  if (!kernels[level()](problem, workers_of(pool))) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "rnnscan: out of memory");
  }
  return ffi::Error::Success();
}

template <Kind kind, bool with_decay>
ffi::Error entry(ffi::ThreadPool pool, int64_t axis, bool reverse, bool starts,
                 ffi::RemainingArgs arguments, ffi::RemainingRets results) {
  return call(kind, with_decay, pool, axis, reverse, starts, arguments, results);
}

auto binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Attr<int64_t>("axis")
      .Attr<bool>("reverse")
      .Attr<bool>("starts")
      .RemainingArgs()
      .RemainingRets();
}

}  // namespace
}  // namespace rnnscan

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
