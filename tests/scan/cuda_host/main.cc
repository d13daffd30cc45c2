// Runs the launches of a file, for a sanitizer: every array is an allocation of its own, of exactly
// its size.
//
//   program LAUNCHES RESULTS
//
// Of 64-bit numbers and contents. A launch: the count of numbers and they, grid, block, bytes of
// shared memory, seed, the count of slots, and each: 0; 1, bytes, contents; 2, bytes (to be
// written); 3, bytes (the same, zero before). A result: bytes read, bytes written, the length of a
// message and it, and, where that is 0, what was written.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

extern "C" int rnnscan_host_run(const int64_t*, int64_t, void* const*, int64_t, int64_t, int64_t,
                                uint64_t, int64_t*, int64_t*, char*, int64_t);

static void read(FILE* file, void* to, size_t bytes) {
  if (fread(to, 1, bytes, file) != bytes) abort();
}
static int64_t number(FILE* file) {
  int64_t value;
  read(file, &value, sizeof(value));
  return value;
}
static void write(FILE* file, const void* from, size_t bytes) {
  if (fwrite(from, 1, bytes, file) != bytes) abort();
}

int main(int, char** arguments) {
  FILE* in = fopen(arguments[1], "rb");
  FILE* out = fopen(arguments[2], "wb");
  if (!in || !out) return 1;
  const int64_t launches = number(in);
  for (int64_t launch = 0; launch < launches; ++launch) {
    std::vector<int64_t> problem(number(in));
    read(in, problem.data(), problem.size() * sizeof(int64_t));
    const int64_t grid = number(in), block = number(in), shared = number(in), seed = number(in);
    struct Slot {
      int64_t kind, bytes;
    };
    std::vector<Slot> slots(number(in));
    std::vector<void*> pointers(slots.size());
    for (size_t i = 0; i < slots.size(); ++i) {
      slots[i].kind = number(in);
      if (!slots[i].kind) continue;
      slots[i].bytes = number(in);
      pointers[i] = malloc(slots[i].bytes);
      if (slots[i].kind == 1) read(in, pointers[i], slots[i].bytes);
      if (slots[i].kind > 1) memset(pointers[i], slots[i].kind == 2 ? 0xff : 0, slots[i].bytes);
    }
    int64_t counts[3] = {0, 0, 0};
    char message[1000] = "";
    rnnscan_host_run(problem.data(), problem.size(), pointers.data(), grid, block, shared, seed,
                     &counts[0], &counts[1], message, sizeof(message));
    counts[2] = strlen(message);
    write(out, counts, sizeof(counts));
    write(out, message, counts[2]);
    for (size_t i = 0; i < slots.size(); ++i) {
      if (slots[i].kind > 1 && !counts[2]) write(out, pointers[i], slots[i].bytes);
      free(pointers[i]);
    }
    fflush(out);  // how many came through, if the next does not
  }
  return 0;
}
