// The choice of the instruction set, once in a process.

#include "shared/level.h"

#include <cstdlib>
#include <string>

namespace rnnscan {
namespace {

// The best that this machine has. RNNSCAN_CPU_LEVEL names a lower one, for tests.
Level choose() {
#ifdef RNNSCAN_X86_LEVELS
  const char* named = std::getenv("RNNSCAN_CPU_LEVEL");
  const std::string most = named ? named : "";
  if (most == "baseline") return kBaseline;
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                  __builtin_cpu_supports("bmi2");
  if (v3 && most != "x86-64-v3" && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return kX86_64_v4;
  }
  if (v3) return kX86_64_v3;
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
