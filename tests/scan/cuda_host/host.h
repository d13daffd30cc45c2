// What device.h asks of a GPU, asked of a CPU: each CUDA thread is a fiber, and host.cc switches
// between them in an order drawn from a seed. It is stricter than a GPU: threads that do not meet at
// one barrier, a copy that is read before it was waited for, an address that is not aligned and a
// wait without end are all reported.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#define DEVICE inline
#define UNROLL
#define UNROLL_BY_4
#define NO_UNROLL
#define WAIT_FOR_COPIES(pending) ::rnnscan::wait_for_copies(pending)

// Where in the kernel: an argument that no caller gives.
#define HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

namespace rnnscan {

namespace host {

struct Copy {
  void* to;
  const void* from;
  int bytes;
  unsigned char value[16];
};

[[noreturn]] void fail(const char* file, int line, const char* what);
void count_read(int64_t bytes);
void count_written(int64_t bytes);
void keep_copy(const Copy& copy);
bool next_copy(int pending, Copy* copy);  // the oldest that is not among the `pending` newest groups
void idle();                              // let others run: this one waits for a message
void changed();                           // a message was written: who waits has something to see
void sometimes_yield();

// Runs `kernel` in every thread of a grid. Null, or what went wrong.
const char* launch(void (*kernel)(const void*), const void* argument, int64_t grid, int64_t block,
                   int64_t shared_bytes, uint64_t seed, int64_t* bytes_read,
                   int64_t* bytes_written);

}  // namespace host

int thread_index();
int64_t block_index();
char* shared_memory();
void sync_warp(HERE);
void sync_block(HERE);
uint32_t shuffle(uint32_t word, int lane, HERE);  // orders no memory, as on a GPU
void commit_copies();
DEVICE float hyperbolic_tangent(float x) { return std::tanh(x); }

namespace host {
inline void check(const void* address, int64_t bytes, const char* file, int line) {
  if (reinterpret_cast<uintptr_t>(address) % bytes) fail(file, line, "a misaligned address");
}
}  // namespace host

// It arrives as late as it may: what is read before holds ones, which are nan. The source must stay
// as it is until then.
template <int bytes>
DEVICE void copy_async(void* to, const void* from, HERE) {
  host::check(to, bytes, file, line);
  host::check(from, bytes, file, line);
  host::count_read(bytes);
  static_assert(bytes >= 4, "a GPU copies no less");
  host::Copy copy{to, from, bytes, {}};
  memcpy(copy.value, from, bytes);
  memset(to, 0xff, bytes);
  host::keep_copy(copy);
}
DEVICE void wait_for_copies(int pending, HERE) {
  host::Copy copy;
  while (host::next_copy(pending, &copy)) {
    if (memcmp(copy.value, copy.from, copy.bytes)) {
      host::fail(file, line, "a source that changed while it was copied");
    }
    memcpy(copy.to, copy.value, copy.bytes);
  }
}

template <class T>
DEVICE T read_global(const T* from, HERE) {
  host::check(from, alignof(T), file, line);
  host::count_read(sizeof(T));
  return *from;
}
template <class T>
DEVICE void write_global(T* to, T value, HERE) {
  host::check(to, alignof(T), file, line);
  host::count_written(sizeof(T));
  *to = value;
}
template <int bytes>
DEVICE void write_words(void* to, const uint32_t* words, HERE) {
  host::check(to, bytes, file, line);
  host::count_written(bytes);
  memcpy(to, words, bytes);
}

DEVICE uint64_t read_message(const uint64_t* from, HERE) {
  host::check(from, sizeof(*from), file, line);
  host::idle();
  return __atomic_load_n(from, __ATOMIC_RELAXED);
}
DEVICE void write_message(uint64_t* to, uint64_t word, HERE) {
  host::check(to, sizeof(*to), file, line);
  host::sometimes_yield();
  __atomic_store_n(to, word, __ATOMIC_RELAXED);
  host::changed();
}
DEVICE uint32_t next_ticket(uint32_t* counter) {
  const uint32_t ticket = __atomic_fetch_add(counter, 1u, __ATOMIC_RELAXED);
  host::changed();
  host::sometimes_yield();
  return ticket;
}
DEVICE void pause() { host::idle(); }

}  // namespace rnnscan

#undef HERE
