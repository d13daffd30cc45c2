// The threads of a grid as fibers. Compiled without a sanitizer's instrumentation, whatever the
// kernel is compiled with: what it keeps in memory is no business of the kernel's threads.

#include "host.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

#if HOST_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if HOST_TSAN
#include <sanitizer/tsan_interface.h>
#endif

// host_switch(&from, to): keeps the registers that a call must keep on the stack, and the stack's
// top in `from`; goes on where `to` was kept.
#if defined(__x86_64__)
asm(R"(
.text
.type host_switch, @function
host_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size host_switch, . - host_switch
)");
#else
#error "fibers are written for x86-64 alone"
#endif
extern "C" void host_switch(void** from, void* to) __asm__("host_switch");

namespace rnnscan {
namespace host {
namespace {

constexpr int kLanes = 32;
constexpr size_t kGuard = 4096;
#if HOST_TSAN
constexpr int kMostThreads = 256;  // alive at once
#else
constexpr int kMostThreads = 2048;
#endif
constexpr size_t kStack = 256 << 10;

enum Barrier { kNone, kWarp, kShuffle, kBlock };
const char* const kNames[] = {"nothing", "sync_warp", "shuffle", "sync_block"};

struct Fiber {
  void* top;  // of its stack, while others run
  char* stack;
  void* tsan;
  int thread, slot;
  Barrier at;  // where it waits
  const char* file;
  int line;
  uint32_t word;  // of a shuffle
  int source;
  void* fake_stack;
  int groups;  // committed and not yet waited for
  std::vector<Copy> copies;
  std::vector<int> sizes;  // of these groups
};

// A barrier that is used again at once must not pass on what came after it: hence two tokens.
struct Meeting {
  int waiting, finished, phase;
  char token[2];
};

struct Slot {
  int64_t block;
  char* shared;
  Meeting all;
  std::vector<Meeting> warps;
};

std::vector<Fiber> fibers;
struct Thread {  // kept for the next launch: one takes a thread sanitizer a millisecond to make
  char* stack;  // its lowest address
  void* tsan;
};
std::vector<Thread> pool;
std::vector<Slot> slots;
std::vector<int> ready;
int ready_count;
Fiber* current;
void* scheduler;  // the top of its stack
#if HOST_ASAN
void* scheduler_fake_stack;
const void* scheduler_bottom;
size_t scheduler_size;
#endif
#if HOST_TSAN
void* scheduler_tsan;
#endif
void (*the_kernel)(const void*);
const void* the_argument;
int threads;
int64_t idle_turns, counted_read, counted_written;
uint64_t random_state;
const char* without = getenv("HOST_WITHOUT");  // file:line of a barrier that is not there
bool failed;
char text[1000];

uint64_t draw(uint64_t below) {  // splitmix64
  uint64_t z = random_state += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return (z ^ (z >> 31)) % below;
}

void acquire(void* token) {
#if HOST_TSAN
  __tsan_acquire(token);
#endif
  (void)token;
}
void release(void* token) {
#if HOST_TSAN
  __tsan_release(token);
#endif
  (void)token;
}

void to_fiber(Fiber& fiber) {
  current = &fiber;
#if HOST_ASAN
  __sanitizer_start_switch_fiber(&scheduler_fake_stack, fiber.stack, kStack);
#endif
#if HOST_TSAN
  __tsan_switch_to_fiber(fiber.tsan, __tsan_switch_to_fiber_no_sync);
#endif
  host_switch(&scheduler, fiber.top);
#if HOST_ASAN
  __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);
#endif
}

void to_scheduler(bool for_ever) {
  Fiber& fiber = *current;
#if HOST_ASAN
  __sanitizer_start_switch_fiber(for_ever ? nullptr : &fiber.fake_stack, scheduler_bottom,
                                 scheduler_size);
#endif
#if HOST_TSAN
  __tsan_switch_to_fiber(scheduler_tsan, __tsan_switch_to_fiber_no_sync);
#endif
  host_switch(&fiber.top, scheduler);
#if HOST_ASAN
  __sanitizer_finish_switch_fiber(fiber.fake_stack, nullptr, nullptr);
#endif
  (void)for_ever;
}

void make_ready(Fiber& fiber) {
  fiber.at = kNone;
  ready[ready_count++] = static_cast<int>(&fiber - fibers.data());
}

void yield() {
  make_ready(*current);
  to_scheduler(false);
}

const char* base_name(const char* file) {
  const char* slash = strrchr(file, '/');
  return slash ? slash + 1 : file;
}

Fiber& fiber_of(const Fiber& beside, int thread) {
  return fibers[beside.slot * threads + thread];
}

void disagree(const Fiber& one, const Fiber& other) {
  snprintf(text, sizeof(text),
           "block %lld: thread %d is at %s (%s:%d) and thread %d at %s (%s:%d)",
           static_cast<long long>(slots[one.slot].block), one.thread, kNames[one.at],
           base_name(one.file), one.line, other.thread, kNames[other.at], base_name(other.file),
           other.line);
  failed = true;
}
void finished_early(const Fiber& waiting) {
  snprintf(text, sizeof(text), "block %lld: thread %d waits at %s (%s:%d), and others have finished",
           static_cast<long long>(slots[waiting.slot].block), waiting.thread, kNames[waiting.at],
           base_name(waiting.file), waiting.line);
  failed = true;
}

// One that waits already among [first, first + count) of the block.
const Fiber* waiting_among(int first, int count, bool at_block) {
  for (int i = first; i < first + count; ++i) {
    const Fiber& other = fiber_of(*current, i);
    if (&other != current && other.at != kNone && (!at_block || other.at == kBlock)) return &other;
  }
  return nullptr;
}

void arrive(Barrier kind, const char* file, int line) {
  Fiber& fiber = *current;
  Slot& slot = slots[fiber.slot];
  const int first = fiber.thread / kLanes * kLanes;
  Meeting& warp = slot.warps[fiber.thread / kLanes];
  fiber.at = kind, fiber.file = file, fiber.line = line;
  const Fiber* other = warp.waiting ? waiting_among(first, kLanes, false) : nullptr;
  if (!other && kind == kBlock && slot.all.waiting) other = waiting_among(0, threads, true);
  const bool elsewhere =
      other && (other->line != line || (other->file != file && strcmp(other->file, file)));
  if (elsewhere || (other && other->at != kind)) {
    disagree(fiber, *other);
  } else if (warp.finished || (kind == kBlock && slot.all.finished)) {
    finished_early(fiber);
  }
  if (failed) to_scheduler(true);

  Meeting& meeting = kind == kBlock ? slot.all : warp;
  char* token = &meeting.token[meeting.phase & 1];
  if (kind != kShuffle) release(token);
  ++warp.waiting;
  if (kind == kBlock) ++slot.all.waiting;
  if (kind == kBlock && slot.all.waiting == threads) {
    for (int i = 0; i < threads; ++i) make_ready(fiber_of(fiber, i));
    for (Meeting& each : slot.warps) each.waiting = 0;
    slot.all.waiting = 0, ++slot.all.phase, idle_turns = 0;
  } else if (kind != kBlock && warp.waiting == kLanes) {
    uint32_t words[kLanes];
    for (int i = 0; i < kLanes; ++i) words[i] = fiber_of(fiber, first + i).word;
    for (int i = 0; i < kLanes; ++i) {
      Fiber& lane = fiber_of(fiber, first + i);
      if (kind == kShuffle) lane.word = words[lane.source & (kLanes - 1)];
      make_ready(lane);
    }
    warp.waiting = 0, idle_turns = 0;
    if (kind == kWarp) ++warp.phase;
  }
  to_scheduler(false);
  if (kind != kShuffle) acquire(token);
}

bool is_planted(const char* file, int line) {
  if (!without) return false;
  const char* colon = strrchr(without, ':');
  return colon && atoi(colon + 1) == line && !strncmp(base_name(file), without, colon - without);
}

void finish() {
  Fiber& fiber = *current;
  Slot& slot = slots[fiber.slot];
  Meeting& warp = slot.warps[fiber.thread / kLanes];
  ++warp.finished, ++slot.all.finished, idle_turns = 0;
  const Fiber* other = nullptr;
  if (warp.waiting) other = waiting_among(fiber.thread / kLanes * kLanes, kLanes, false);
  if (!other && slot.all.waiting) other = waiting_among(0, threads, true);
  if (other) finished_early(*other);
  to_scheduler(true);
}

void enter() {
#if HOST_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_bottom, &scheduler_size);
#endif
  the_kernel(the_argument);
  finish();
  abort();
}

void begin(Fiber& fiber, int index) {
  while (static_cast<int>(pool.size()) <= index) {
    void* made = mmap(nullptr, kGuard + kStack, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (made == MAP_FAILED || mprotect(made, kGuard, PROT_NONE)) abort();
    Thread thread{static_cast<char*>(made) + kGuard, nullptr};
#if HOST_TSAN
    thread.tsan = __tsan_create_fiber(0);
#endif
    pool.push_back(thread);
  }
  fiber.stack = pool[index].stack, fiber.tsan = pool[index].tsan;
  fiber.groups = 0;
  fiber.copies.clear(), fiber.sizes.clear();
#if HOST_TSAN
  __tsan_switch_to_fiber(fiber.tsan, 0);  // what the scheduler did comes before all that it does
  __tsan_switch_to_fiber(scheduler_tsan, __tsan_switch_to_fiber_no_sync);
#endif
  const size_t unused = index % 61 * 1088;  // or all would lie in the same lines of the cache
  void** top = reinterpret_cast<void**>(fiber.stack + kStack - unused);
  *--top = nullptr;  // a stack is aligned to 16 bytes before a call, and `ret` takes one word
  *--top = reinterpret_cast<void*>(&enter);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  fiber.top = top;
  make_ready(fiber);
}

void end(Fiber& fiber) {
#if HOST_TSAN
  __tsan_switch_to_fiber(fiber.tsan, __tsan_switch_to_fiber_no_sync);
  __tsan_switch_to_fiber(scheduler_tsan, 0);  // and the other way round
#endif
  (void)fiber;
}

void begin_block(int index, int64_t block, int64_t shared_bytes) {
  Slot& slot = slots[index];
  slot.block = block;
  slot.shared = static_cast<char*>(malloc(shared_bytes));
  memset(slot.shared, 0xff, shared_bytes);
  slot.all = Meeting{};
  slot.warps.assign(threads / kLanes, Meeting{});
  for (int i = 0; i < threads; ++i) {
    Fiber& fiber = fibers[index * threads + i];
    fiber.thread = i, fiber.slot = index;
    begin(fiber, index * threads + i);
  }
}
void end_block(int index) {
  for (int i = 0; i < threads; ++i) end(fibers[index * threads + i]);
  free(slots[index].shared);
  slots[index].shared = nullptr;
}

void report_deadlock() {
  const Fiber* waits = nullptr;
  for (const Fiber& fiber : fibers) {
    if (slots[fiber.slot].shared && fiber.at != kNone) waits = &fiber;
  }
  int length = snprintf(text, sizeof(text), "deadlock: %d threads wait for a message", ready_count);
  if (waits) {
    snprintf(text + length, sizeof(text) - length, "; thread %d of block %lld waits at %s (%s:%d)",
             waits->thread, static_cast<long long>(slots[waits->slot].block), kNames[waits->at],
             base_name(waits->file), waits->line);
  }
  failed = true;
}

}  // namespace

void fail(const char* file, int line, const char* what) {
  snprintf(text, sizeof(text), "block %lld, thread %d: %s (%s:%d)",
           static_cast<long long>(block_index()), thread_index(), what, base_name(file), line);
  failed = true;
  to_scheduler(true);
  abort();
}
void count_read(int64_t bytes) { counted_read += bytes; }
void count_written(int64_t bytes) { counted_written += bytes; }

void keep_copy(const Copy& copy) { current->copies.push_back(copy); }
bool next_copy(int pending, Copy* copy) {
  Fiber& fiber = *current;
  while (fiber.groups > pending) {
    int& size = fiber.sizes.front();
    if (size > 0) {
      --size;
      *copy = fiber.copies.front();
      fiber.copies.erase(fiber.copies.begin());
      return true;
    }
    fiber.sizes.erase(fiber.sizes.begin());
    --fiber.groups;
  }
  return false;
}

void idle() {
  ++idle_turns;
  yield();
}
void changed() { idle_turns = 0; }
void sometimes_yield() {
  if (draw(2)) yield();
}

const char* launch(void (*kernel)(const void*), const void* argument, int64_t grid, int64_t block,
                   int64_t shared_bytes, uint64_t seed, int64_t* bytes_read,
                   int64_t* bytes_written) {
  if (block < kLanes || block > 1024 || block % kLanes) return "a block is 32, 64 ... 1024 threads";
  the_kernel = kernel, the_argument = argument, threads = static_cast<int>(block);
  random_state = seed;
  idle_turns = counted_read = counted_written = ready_count = 0;
  failed = false;
#if HOST_TSAN
  scheduler_tsan = __tsan_get_current_fiber();
#endif
  // Blocks begin in any order, many at once or few.
  std::vector<int64_t> order(grid);
  for (int64_t i = 0; i < grid; ++i) {
    const int64_t j = draw(i + 1);
    order[i] = order[j], order[j] = i;
  }
  int64_t most = kMostThreads / block + 1;
  if (most > grid) most = grid;
  if (draw(4) == 0) most = 1 + draw(most);
  slots.assign(most, Slot{});
  fibers.resize(most * threads);
  ready.resize(most * threads);
  int64_t begun = 0, running = 0;
  while (begun < most) begin_block(begun, order[begun], shared_bytes), ++begun, ++running;

  while (running && !failed) {
    if (!ready_count || idle_turns > 1000 + 100 * ready_count) {
      report_deadlock();
      break;
    }
    const int place = draw(ready_count), next = ready[place];
    ready[place] = ready[--ready_count];
    to_fiber(fibers[next]);
    Slot& slot = slots[fibers[next].slot];
    if (slot.all.finished < threads || failed) continue;
    const int index = fibers[next].slot;
    end_block(index);
    --running;
    if (begun < grid) begin_block(index, order[begun], shared_bytes), ++begun, ++running;
  }
  for (size_t i = 0; i < slots.size(); ++i) {
    if (slots[i].shared) end_block(i);
  }
#if HOST_ASAN
  if (failed) {  // in the midst of functions
    for (const Thread& each : pool) __asan_unpoison_memory_region(each.stack, kStack);
  }
#endif
  *bytes_read = counted_read, *bytes_written = counted_written;
  return failed ? text : nullptr;
}

}  // namespace host

int thread_index() { return host::current->thread; }
int64_t block_index() { return host::slots[host::current->slot].block; }
char* shared_memory() { return host::slots[host::current->slot].shared; }
void sync_warp(const char* file, int line) {
  if (!host::is_planted(file, line)) host::arrive(host::kWarp, file, line);
}
void sync_block(const char* file, int line) {
  if (!host::is_planted(file, line)) host::arrive(host::kBlock, file, line);
}
uint32_t shuffle(uint32_t word, int lane, const char* file, int line) {
  host::current->word = word, host::current->source = lane;
  host::arrive(host::kShuffle, file, line);
  return host::current->word;
}
void commit_copies() {
  host::Fiber& fiber = *host::current;
  int open = static_cast<int>(fiber.copies.size());
  for (int size : fiber.sizes) open -= size;
  fiber.sizes.push_back(open);
  ++fiber.groups;
}

}  // namespace rnnscan
