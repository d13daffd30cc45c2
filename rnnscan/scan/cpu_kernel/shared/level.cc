// The choice of the instruction set, once in a process.

#include "shared/level.h"

#include <cstdlib>
#include <string>

#ifdef RNNSCAN_X86_LEVELS
#include <cpuid.h>
#endif

namespace rnnscan {
namespace {

#ifdef RNNSCAN_X86_LEVELS
// What older compilers have no name for in __builtin_cpu_supports: a bit of ecx.
bool has(unsigned leaf, unsigned bit) {
  unsigned eax, ebx, ecx = 0, edx;
  return __get_cpuid(leaf, &eax, &ebx, &ecx, &edx) && (ecx & bit);
}

// Everything that -march may use (x86-64 psABI, table 3.1): a machine, or a virtual one, may lack any.
bool has_v3() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") && has(1, bit_F16C) &&
         has(1, bit_MOVBE) && has(0x80000001, bit_ABM /* lzcnt */);
}

bool has_v4() {
  return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}
#endif

// The best that this machine has. RNNSCAN_CPU_LEVEL names a lower one, for tests.
Level choose() {
#ifdef RNNSCAN_X86_LEVELS
  const char* named = std::getenv("RNNSCAN_CPU_LEVEL");
  const std::string most = named ? named : "";
  if (most == "baseline") return kBaseline;
  __builtin_cpu_init();
  if (most != "x86-64-v3" && has_v4()) return kX86_64_v4;
  if (has_v3()) return kX86_64_v3;
#endif
  return kBaseline;
}

}  // namespace

Level level() {
  static const Level best = choose();
  return best;
}

const char* level_name() {
  constexpr const char* names[] = {"baseline", "x86-64-v3", "x86-64-v4"};
  return names[level()];
}

}  // namespace rnnscan
