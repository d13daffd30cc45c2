// What the kernel asks of a GPU. A host has a file with the same names, and the kernel's tests run
// there (tests/scan/cuda_host/).

#pragma once

#define DEVICE __device__ __forceinline__
#define UNROLL _Pragma("unroll")
#define UNROLL_BY_4 _Pragma("unroll 4")
#define NO_UNROLL _Pragma("unroll 1")

namespace rnnscan {

DEVICE int thread_index() { return threadIdx.x; }
DEVICE int64_t block_index() { return blockIdx.x; }
DEVICE void sync_warp() { __syncwarp(); }
DEVICE void sync_block() { __syncthreads(); }
DEVICE float hyperbolic_tangent(float x) { return tanhf(x); }

DEVICE char* shared_memory() {
  extern __shared__ __align__(16) char memory[];
  return memory;
}

// Of another lane of the warp; all lanes call.
DEVICE uint32_t shuffle(uint32_t word, int lane) {
  return __shfl_sync(0xffffffff, word, lane);
}

// From global to shared memory, complete once its group has been waited for: 16, 8 or 4 bytes.
template <int bytes>
DEVICE void copy_async(void* to, const void* from) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  if constexpr (bytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from) : "memory");
  } else if constexpr (bytes == 8) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(address), "l"(from) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(address), "l"(from) : "memory");
  }
}
DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
#define WAIT_FOR_COPIES(pending) asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory")

// From and to global memory.
template <class T>
DEVICE T read_global(const T* from) { return *from; }
template <class T>
DEVICE void write_global(T* to, T value) { *to = value; }
// As one instruction, which the compiler does not always make of a structure.
template <int bytes>
DEVICE void write_words(void* to, const uint32_t* words) {
  if constexpr (bytes == 16) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(words[0]), "r"(words[1]),
                 "r"(words[2]), "r"(words[3]));
  } else if constexpr (bytes == 8) {
    asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(words[0]), "r"(words[1]));
  } else {
    *static_cast<uint32_t*>(to) = words[0];
  }
}

// Words by which blocks tell one another: each carries all that it says, so they need no order.
DEVICE uint64_t read_message(const uint64_t* from) {
  uint64_t word;
  asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(word) : "l"(from) : "memory");
  return word;
}
DEVICE void write_message(uint64_t* to, uint64_t word) {
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(to), "l"(word) : "memory");
}
DEVICE uint32_t next_ticket(uint32_t* counter) { return atomicAdd(counter, 1u); }
DEVICE void pause() { __nanosleep(20); }

}  // namespace rnnscan
