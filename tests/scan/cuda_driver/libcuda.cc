// A driver without a card: it writes down what launcher.cc asks for, a line each. How it fails, and
// how many parameters a kernel has, stands in the text that it is given for PTX.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <unistd.h>

// A line is one write: several threads say something at once.
static int say(const std::string& line) {
  std::fputs((line + "\n").c_str(), stdout);
  return std::fflush(stdout);
}

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
int cuCtxPushCurrent_v2(uintptr_t context) { return say("push " + std::to_string(context)); }
int cuCtxPopCurrent_v2(uintptr_t*) { return say("pop"); }

int cuModuleLoadDataEx(void** module, const char* text, unsigned options, int* names, void** values) {
  say(std::string("load ") + text);
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
  return std::strstr(static_cast<char*>(module), name) ? say(std::string("find ") + name) : 500;
}
int cuFuncSetAttribute(void*, int attribute, int value) {
  say("set " + std::to_string(attribute) + " " + std::to_string(value));
  return value > 232448 ? 1 : 0;
}
int cuLaunchKernel(char* text, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared, uintptr_t stream, void*** parameters, void** extra) {
  char sizes[200];
  std::snprintf(sizes, sizeof sizes, "launch %u %u %u, %u %u %u, %u, %ld%s:", gx, gy, gz, bx, by, bz,
                shared, long(stream), extra ? " extra" : "");
  std::string line = sizes;
  for (int i = 0; i < std::atoi(text); ++i) {
    line += " " + std::to_string(uintptr_t(*parameters[i]));
  }
  say(line);
  return bx > 1024 ? 999 : 0;
}
}
