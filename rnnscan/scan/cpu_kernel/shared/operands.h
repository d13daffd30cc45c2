// The operands and results of one call, in the order in which Python passes them.

#pragma once

#include <algorithm>
#include <initializer_list>

#include "shared/runtime.h"

namespace rnnscan {
namespace {

// All are float32, but flags. `good` turns false where something is not as expected.
struct Operands {
  ffi::RemainingArgs& arguments;
  ffi::RemainingRets& results;
  size_t next_argument = 0, next_result = 0;
  bool good = true;

  using Dims = std::initializer_list<int64_t>;

  bool fits(ffi::AnyBuffer buffer, ffi::DataType type, Dims expected) const {
    const auto dims = buffer.dimensions();
    return buffer.element_type() == type && dims.size() == expected.size() &&
           std::equal(dims.begin(), dims.end(), expected.begin());
  }

  ffi::AnyBuffer::Dimensions shape(size_t i) {
    auto buffer = arguments.get<ffi::AnyBuffer>(i);
    if (!buffer) good = false;
    return buffer ? (*buffer).dimensions() : ffi::AnyBuffer::Dimensions{};
  }

  const void* argument(ffi::DataType type, Dims expected) {
    auto buffer = arguments.get<ffi::AnyBuffer>(next_argument++);
    good = good && buffer && fits(*buffer, type, expected);
    return good ? (*buffer).untyped_data() : nullptr;
  }
  const float* take(Dims expected) {
    return static_cast<const float*>(argument(ffi::F32, expected));
  }
  const uint8_t* take_flags(Dims expected) {
    return static_cast<const uint8_t*>(argument(ffi::PRED, expected));
  }

  float* give(Dims expected) {
    auto buffer = results.get<ffi::AnyBuffer>(next_result++);
    good = good && buffer && fits(**buffer, ffi::F32, expected);
    if (!good) return nullptr;
    expect_writes((**buffer).untyped_data(), (**buffer).size_bytes());
    return static_cast<float*>((**buffer).untyped_data());
  }

  bool all_taken() const {
    return good && next_argument == arguments.size() && next_result == results.size();
  }
};

}  // namespace
}  // namespace rnnscan
