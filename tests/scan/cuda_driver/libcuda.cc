// A driver without a card: it writes down what launcher.cc asks for, a line each. How it fails, and
// how many parameters a kernel has, stands in the text that it is given for PTX.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <unistd.h>

#define SAY(...) (std::printf(__VA_ARGS__), std::printf("\n"), std::fflush(stdout), 0)

extern "C" {

int cuGetErrorName(int code, const char** name) {
  *name = code == 999 ? nullptr : "CUDA_ERROR_OF_A_TEST";
  return code == 999;
}
int cuGetErrorString(int code, const char** text) {
  *text = code == 999 ? nullptr : "the card is not there";
  return code == 999;
}

// Sixteen streams a context.
int cuStreamGetCtx(uintptr_t stream, uintptr_t* context) {
  *context = stream / 16;
  return 0;
}
int cuCtxPushCurrent_v2(uintptr_t context) { return SAY("push %ld", long(context)); }
int cuCtxPopCurrent_v2(uintptr_t*) { return SAY("pop"); }

int cuModuleLoadDataEx(void** module, const char* text, unsigned options, int* names, void** values) {
  SAY("load %s", text);
  usleep(20000);  // other threads have time to do the same
  for (unsigned i = 0; i < options && std::strstr(text, "malformed"); ++i) {
    if (names[i] == 5) std::strcpy(static_cast<char*>(values[i]), "line 7: syntax error");
  }
  if (std::strstr(text, "malformed")) return 218;
  *module = strdup(text);
  return 0;
}
int cuModuleGetFunction(void** function, void* module, const char* name) {
  *function = module;
  return std::strstr(static_cast<char*>(module), name) ? SAY("find %s", name) : 500;
}
int cuFuncSetAttribute(void*, int attribute, int value) {
  SAY("set %d %d", attribute, value);
  return value > 232448 ? 1 : 0;
}
int cuLaunchKernel(char* text, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared, uintptr_t stream, void*** parameters, void** extra) {
  std::printf("launch %u %u %u, %u %u %u, %u, %ld%s:", gx, gy, gz, bx, by, bz, shared, long(stream),
              extra ? " extra" : "");
  for (int i = 0; i < std::atoi(text); ++i) std::printf(" %ld", long(uintptr_t(*parameters[i])));
  SAY("%s", "");
  return bx > 1024 ? 999 : 0;
}
}
