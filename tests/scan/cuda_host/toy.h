// A kernel for the tests of the host itself: `kind` says what to do, and each bit of `mode` plants a
// fault, `steps` the threads of a block. `out` is a float for each thread of the grid, `views[0]`
// what it reads.

#pragma once

#include "problem.h"

#include RNNSCAN_DEVICE

namespace rnnscan {

struct F32 {};

struct alignas(16) Unit {
  float numbers[4];
};

// out = x of the next thread of the warp, twice over; without a `sync_warp` it may be as well right.
DEVICE void toy_warp(const float* x, float* out) {
  volatile float* shared = reinterpret_cast<float*>(shared_memory());
  const int thread = thread_index(), next = (thread & ~31) | ((thread + 1) & 31);
  shared[thread] = x[thread];
  sync_warp();
  shared[thread] = x[thread];
  if (!(problem.mode & 1)) sync_warp();
  if (problem.mode & 2) shuffle(0, 0);  // orders no memory
  out[thread] = 2 * shared[next];
}

// out = the sum over the block, each thread adding all; the same of `sync_block`.
DEVICE void toy_block(const float* x, float* out) {
  volatile float* shared = reinterpret_cast<float*>(shared_memory());
  const int thread = thread_index(), all = static_cast<int>(problem.steps);
  shared[thread] = x[thread];
  sync_block();
  shared[thread] = x[thread];
  if (problem.mode & 1) {
    sync_warp();
  } else {
    sync_block();
  }
  float sum = 0;
  for (int i = 0; i < all; ++i) sum += shared[i + (problem.mode & 2 ? 1 : 0)];  // 2: one too far
  out[thread] = sum;
}

// out = running sum over the warp, by shuffles.
DEVICE void toy_shuffle(const float* x, float* out) {
  const int thread = thread_index(), lane = thread & 31;
  float sum = x[thread];
  for (int step = 1; step < 32; step *= 2) {
    uint32_t word;
    memcpy(&word, &sum, 4);
    word = shuffle(word, lane - step);
    float before;
    memcpy(&before, &word, 4);
    if (lane >= step) sum += before;
  }
  out[thread] = sum;
}

// out = x, copied two groups ahead; 1: waits for one group too few, 2: an address off by 4 bytes.
DEVICE void toy_copies(const float* x, float* out) {
  const int thread = thread_index(), all = static_cast<int>(problem.steps);
  char* shared = shared_memory() + thread * 32;
  const int rounds = 4;
  for (int round = 0; round <= rounds; ++round) {
    if (round < rounds) {
      const float* from = x + (round * all + thread) * 4 + (problem.mode & 2 ? 1 : 0);
      copy_async<16>(shared + round % 2 * 16, from);
    }
    commit_copies();
    if (round == 0) continue;
    if (problem.mode & 1) {
      WAIT_FOR_COPIES(2);
    } else {
      WAIT_FOR_COPIES(1);
    }
    Unit unit;
    memcpy(&unit, shared + (round - 1) % 2 * 16, 16);
    write_global(reinterpret_cast<Unit*>(out) + (round - 1) * all + thread, unit);
  }
}

// out = the number of the block plus one, told from block to block. 1: a block waits for itself, 4:
// messages are read and written as ordinary memory.
DEVICE void toy_chain(uint64_t* messages, float* out) {
  uint32_t* shared = reinterpret_cast<uint32_t*>(shared_memory());
  if (thread_index() == 0) shared[0] = next_ticket(reinterpret_cast<uint32_t*>(messages));
  sync_block();
  const uint32_t ticket = shared[0];
  const uint32_t from = problem.mode & 1 ? ticket + 1 : ticket;
  uint64_t before = 0;
  if (thread_index() == 0) {
    if (ticket > 0) {
      while (!(before = problem.mode & 4 ? messages[from] : read_message(messages + from))) pause();
    }
    if (problem.mode & 4) {
      messages[ticket + 1] = before + 1;
    } else {
      write_message(messages + ticket + 1, before + 1);
    }
    shared[1] = static_cast<uint32_t>(before + 1);
  }
  sync_block();
  write_global(out + ticket * problem.steps + thread_index(), static_cast<float>(shared[1]));
}

// Threads that do not meet. 1: half of a warp at another barrier, 2: half of it ends, 4: one warp
// ends, 8: the same barrier in two places, 16: no barrier, but a sum that overflows.
DEVICE void toy_diverges(float* out) {
  const int thread = thread_index();
  const bool odd = thread & 1;
  if (problem.mode == 1) {
    if (odd) {
      sync_warp();
    } else {
      shuffle(0, 0);
    }
  }
  if (problem.mode == 2) {
    if (odd) return;
    sync_warp();
  }
  if (problem.mode == 4) {
    if (thread >= 32) return;
    sync_block();
  }
  if (problem.mode == 8) {
    if (thread >= 32) {
      sync_block();
    } else {
      sync_block();
    }
  }
  int one = static_cast<int>(problem.steps + 0x7fffffff - 32);
  if (problem.mode == 16) one += thread;
  out[thread] = problem.mode == 16 ? static_cast<float>(one) : 1;
}

template <class N>
DEVICE void run(const Pointers& at) {
  const float* x = static_cast<const float*>(at.views[0]);
  float* out = static_cast<float*>(at.out);
  const int64_t first = block_index() * problem.steps;
  if (problem.kind == 0) toy_warp(x + first, out + first);
  if (problem.kind == 1) toy_block(x + first, out + first);
  if (problem.kind == 2) toy_shuffle(x + first, out + first);
  if (problem.kind == 3) toy_copies(x + first * 16, out + first * 16);
  if (problem.kind == 4) toy_chain(static_cast<uint64_t*>(at.messages), out);
  if (problem.kind == 5) toy_diverges(out + first);
}

}  // namespace rnnscan
