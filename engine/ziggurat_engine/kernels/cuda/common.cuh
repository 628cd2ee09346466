// What do all kernels share? Types, moves of 16 bytes, and a sum over a thread block.
//
// Every file is compiled twice: by NVRTC for a device, and by g++ for the tests (tests/support/
// shim.h has the few CUDA words that are used). There are no headers behind it in either.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

constexpr int WARP = 32;
constexpr int THREADS = 256;  // of a thread block, where nothing else is said
constexpr u32 ALL_LANES = 0xffffffffu;

template <typename T>
__device__ __forceinline__ T smaller(T a, T b) {
  return b < a ? b : a;
}

template <typename T>
__device__ __forceinline__ T larger(T a, T b) {
  return b < a ? a : b;
}

__device__ __forceinline__ int ceil_div(int a, int b) { return (a + b - 1) / b; }

// `align`: a power of two.
__device__ __forceinline__ i64 round_up(i64 n, i64 align) { return (n + align - 1) & -align; }

__device__ __forceinline__ bool is_aligned(const void* p, u64 align) {
  return ((u64)p & (align - 1)) == 0;
}

// Copies with `threads` threads, of which this is number `thread`; 16 bytes each where both
// sides allow it.
__device__ __forceinline__ void copy_bytes(u8* to, const u8* from, i64 n, int thread, int threads) {
  i64 done = 0;
  if (is_aligned(to, 16) && is_aligned(from, 16)) {
    const i64 vectors = n / 16;
#pragma unroll 4
    for (i64 i = thread; i < vectors; i += threads) ((uint4*)to)[i] = ((const uint4*)from)[i];
    done = vectors * 16;
  }
  for (i64 i = done + thread; i < n; i += threads) to[i] = from[i];
}

__device__ __forceinline__ void zero_bytes(u8* to, i64 n, int thread, int threads) {
  for (i64 i = thread; i < n; i += threads) to[i] = 0;
}

// The sum of `value` over all threads below this one; `total`: over all. For THREADS threads,
// all of which have to call it.
__device__ inline i64 sum_below(i64 value, i64& total) {
  __shared__ i64 of_warps[THREADS / WARP];
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  i64 sum = value;
  for (int step = 1; step < WARP; step *= 2) {
    const i64 below = __shfl_up_sync(ALL_LANES, sum, step);
    if (lane >= step) sum += below;
  }
  if (lane == WARP - 1) of_warps[warp] = sum;
  __syncthreads();
  total = 0;
  i64 before = 0;
  for (int i = 0; i < THREADS / WARP; i++) {
    if (i < warp) before += of_warps[i];
    total += of_warps[i];
  }
  __syncthreads();  // the next call writes of_warps again
  return before + sum - value;
}
