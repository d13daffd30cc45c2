// What library.py reads of the shared library before it registers anything.

#include "shared/level.h"
#include "shared/runtime.h"

RNNSCAN_EXPORT int rnnscan_ffi_version() { return XLA_FFI_API_MAJOR * 1000 + XLA_FFI_API_MINOR; }
RNNSCAN_EXPORT const char* rnnscan_source_hash() { return RNNSCAN_SOURCE_HASH; }
RNNSCAN_EXPORT const char* rnnscan_instruction_set() { return rnnscan::level_name(); }

// What compiled it: times and roundings differ.
RNNSCAN_EXPORT const char* rnnscan_compiler() {
#ifdef __clang__
  return __VERSION__;  // names itself
#else
  return "GCC " __VERSION__;
#endif
}
