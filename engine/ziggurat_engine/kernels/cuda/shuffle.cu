// How are bytes and bits of pixels sorted by significance, Blosc block by Blosc block, and back?
//
// The layouts are c-blosc 1.21's (shuffle-generic.h, bitshuffle-generic.c). Of n elements of TS
// bytes, byte j of element e goes to j * n + e; bit k of byte j of element e goes to bit e % 8 of
// byte e / 8 of plane 8 * j + k, a plane being n / 8 bytes. If n is not a multiple of 8 a bit
// shuffle leaves the block as it is; bytes beyond n * TS are copied.
//
// A thread takes 8 elements. It transposes their bytes in registers, 4 x 4 at a time, and for
// bits 8 x 8 bits at a time. A byte plane gets 8 bytes from a thread, 256 from a warp, at once. A
// bit plane gets one: these meet in shared memory, where neighbouring lanes write neighbouring
// bytes (no bank conflict), and leave it 16 bytes a lane.
#include "common.cuh"

enum Shuffle { BYTES, BITS };

constexpr int OF_THREAD = 8;
constexpr int TILE = OF_THREAD * THREADS;  // elements of a thread block
constexpr int PLANE = TILE / 8;            // bytes of its part of a bit plane

// Byte j of word i <-> byte i of word j.
__device__ __forceinline__ void transpose_bytes(u32& a, u32& b, u32& c, u32& d) {
  const u32 ab01 = __byte_perm(a, b, 0x5140), ab23 = __byte_perm(a, b, 0x7362);
  const u32 cd01 = __byte_perm(c, d, 0x5140), cd23 = __byte_perm(c, d, 0x7362);
  a = __byte_perm(ab01, cd01, 0x5410);
  b = __byte_perm(ab01, cd01, 0x7632);
  c = __byte_perm(ab23, cd23, 0x5410);
  d = __byte_perm(ab23, cd23, 0x7632);
}

// Bit k of byte i <-> bit i of byte k (Warren, Hacker's Delight, 7-3).
__device__ __forceinline__ u64 transpose_bits(u64 x) {
  u64 t = (x ^ (x >> 7)) & 0x00aa00aa00aa00aaull;
  x ^= t ^ (t << 7);
  t = (x ^ (x >> 14)) & 0x0000cccc0000ccccull;
  x ^= t ^ (t << 14);
  t = (x ^ (x >> 28)) & 0x00000000f0f0f0f0ull;
  return x ^ t ^ (t << 28);
}

// 8 elements of TS bytes, as they lie in memory and as 8 bytes of each of TS planes.
template <int TS> union Eight {
  u32 words[2 * TS];
  u64 planes[TS];
  u8 bytes[8 * TS];
  uint4 vectors[(TS + 1) / 2];
  __device__ __forceinline__ Eight() {}
};

template <int TS> __device__ __forceinline__ void to_planes(Eight<TS>& x) {
  if constexpr (TS == 2) {
    const u32 a = x.words[0], b = x.words[1], c = x.words[2], d = x.words[3];
    x.words[0] = __byte_perm(a, b, 0x6420);
    x.words[1] = __byte_perm(c, d, 0x6420);
    x.words[2] = __byte_perm(a, b, 0x7531);
    x.words[3] = __byte_perm(c, d, 0x7531);
  } else if constexpr (TS == 4) {
    Eight<TS> y = x;
    transpose_bytes(y.words[0], y.words[1], y.words[2], y.words[3]);
    transpose_bytes(y.words[4], y.words[5], y.words[6], y.words[7]);
#pragma unroll
    for (int j = 0; j < 4; j++) {
      x.words[2 * j] = y.words[j];
      x.words[2 * j + 1] = y.words[4 + j];
    }
  } else if constexpr (TS == 8) {
    Eight<TS> y = x;
    // Words 2 * e are the lower halves of the elements, 2 * e + 1 the upper ones.
#pragma unroll
    for (int upper = 0; upper < 2; upper++) {
#pragma unroll
      for (int four = 0; four < 16; four += 8) {
        transpose_bytes(y.words[four + upper], y.words[four + 2 + upper],
                        y.words[four + 4 + upper], y.words[four + 6 + upper]);
#pragma unroll
        for (int j = 0; j < 4; j++)
          x.words[2 * (4 * upper + j) + four / 8] = y.words[four + 2 * j + upper];
      }
    }
  }
}

template <int TS> __device__ __forceinline__ void to_elements(Eight<TS>& x) {
  if constexpr (TS == 2) {
    const u32 a = x.words[0], b = x.words[1], c = x.words[2], d = x.words[3];
    x.words[0] = __byte_perm(a, c, 0x5140);
    x.words[1] = __byte_perm(a, c, 0x7362);
    x.words[2] = __byte_perm(b, d, 0x5140);
    x.words[3] = __byte_perm(b, d, 0x7362);
  } else if constexpr (TS == 4) {
    Eight<TS> y = x;
#pragma unroll
    for (int j = 0; j < 4; j++) {
      x.words[j] = y.words[2 * j];
      x.words[4 + j] = y.words[2 * j + 1];
    }
    transpose_bytes(x.words[0], x.words[1], x.words[2], x.words[3]);
    transpose_bytes(x.words[4], x.words[5], x.words[6], x.words[7]);
  } else if constexpr (TS == 8) {
    Eight<TS> y = x;
#pragma unroll
    for (int upper = 0; upper < 2; upper++) {
#pragma unroll
      for (int four = 0; four < 16; four += 8) {
#pragma unroll
        for (int j = 0; j < 4; j++)
          x.words[four + 2 * j + upper] = y.words[2 * (4 * upper + j) + four / 8];
        transpose_bytes(x.words[four + upper], x.words[four + 2 + upper],
                        x.words[four + 4 + upper], x.words[four + 6 + upper]);
      }
    }
  }
}

// The 8 elements at `from`, and back. Both are multiples of 16, or of 8 for single bytes.
template <int TS> __device__ __forceinline__ void load(Eight<TS>& x, const u8* from) {
  if constexpr (TS == 1) {
    x.planes[0] = *(const u64*)from;
  } else {
#pragma unroll
    for (int i = 0; i < TS / 2; i++) x.vectors[i] = ((const uint4*)from)[i];
  }
}

template <int TS> __device__ __forceinline__ void store(const Eight<TS>& x, u8* to) {
  if constexpr (TS == 1) {
    *(u64*)to = x.planes[0];
  } else {
#pragma unroll
    for (int i = 0; i < TS / 2; i++) ((uint4*)to)[i] = x.vectors[i];
  }
}

// Of one tile of a block: elements [first, first + TILE) of n, fewer at the end. Foreign blocks
// may begin anywhere, and n may be odd: those go byte by byte.
template <int TS>
__device__ __forceinline__ void shuffle_bytes(const u8* block, u8* out, int n, int first) {
  const int e = first + OF_THREAD * threadIdx.x;
  if (n % OF_THREAD == 0) {  // the ABI has blocks begin at multiples of 16
    if (e >= n) return;
    Eight<TS> x;
    load(x, block + (i64)e * TS);
    to_planes(x);
#pragma unroll
    for (int j = 0; j < TS; j++) *(u64*)(out + (i64)j * n + e) = x.planes[j];
  } else {
#pragma unroll 1
    for (int i = e; i < smaller(n, e + OF_THREAD); i++)
      for (int j = 0; j < TS; j++) out[(i64)j * n + i] = block[(i64)i * TS + j];
  }
}

template <int TS>
__device__ __forceinline__ void unshuffle_bytes(const u8* block, u8* out, int n, int first) {
  const int e = first + OF_THREAD * threadIdx.x;
  if (n % OF_THREAD == 0 && is_aligned(block, 16) && is_aligned(out, 16)) {
    if (e >= n) return;
    Eight<TS> x;
#pragma unroll
    for (int j = 0; j < TS; j++) x.planes[j] = *(const u64*)(block + (i64)j * n + e);
    to_elements(x);
    store(x, out + (i64)e * TS);
  } else {
#pragma unroll 1
    for (int i = e; i < smaller(n, e + OF_THREAD); i++)
      for (int j = 0; j < TS; j++) out[(i64)i * TS + j] = block[(i64)j * n + i];
  }
}

constexpr int VECTORS = PLANE / 16;

// Between a tile's part of all bit planes in shared memory, PLANE bytes each, and the planes of
// n / 8 bytes of a block.
template <int TS, bool TO_BLOCK, typename Byte>
__device__ __forceinline__ void move_planes(uint4* staged, Byte* block, int n, int first) {
  const int count = smaller(PLANE, (n - first) / 8);  // bytes of a part
  Byte* there = block + first / 8;
  if (is_aligned(there, 16) && n % 128 == 0) {
    for (int i = threadIdx.x; i < 8 * TS * VECTORS; i += THREADS) {
      if (16 * (i % VECTORS) >= count) continue;
      Byte* vector = there + (i64)(i / VECTORS) * (n / 8) + 16 * (i % VECTORS);
      if constexpr (TO_BLOCK) {
        *(uint4*)vector = staged[i];
      } else {
        staged[i] = *(const uint4*)vector;
      }
    }
  } else {
    u8* parts = (u8*)staged;
#pragma unroll 1
    for (int i = threadIdx.x; i < 8 * TS * PLANE; i += THREADS) {
      if (i % PLANE >= count) continue;
      Byte* byte = there + (i64)(i / PLANE) * (n / 8) + i % PLANE;
      if constexpr (TO_BLOCK) {
        *byte = parts[i];
      } else {
        parts[i] = *byte;
      }
    }
  }
}

// As above, for n a multiple of 8. All threads of the thread block have to call it.
template <int TS>
__device__ __forceinline__ void shuffle_bits(const u8* block, u8* out, int n, int first) {
  __shared__ uint4 staged[8 * TS * VECTORS];
  u8* parts = (u8*)staged;
  const int e = first + OF_THREAD * threadIdx.x;
  if (e < n) {
    Eight<TS> x;
    load(x, block + (i64)e * TS);
    to_planes(x);
#pragma unroll
    for (int j = 0; j < TS; j++) {
      const u64 bits = transpose_bits(x.planes[j]);
#pragma unroll
      for (int k = 0; k < 8; k++)
        parts[(8 * j + k) * PLANE + threadIdx.x] = (u8)(bits >> (8 * k));
    }
  }
  __syncthreads();
  move_planes<TS, true>(staged, out, n, first);
}

template <int TS>
__device__ __forceinline__ void unshuffle_bits(const u8* block, u8* out, int n, int first) {
  __shared__ uint4 staged[8 * TS * VECTORS];
  const u8* parts = (const u8*)staged;
  move_planes<TS, false>(staged, block, n, first);
  __syncthreads();
  const int e = first + OF_THREAD * threadIdx.x;
  if (e < n && is_aligned(out, 16)) {
    Eight<TS> x;
#pragma unroll
    for (int j = 0; j < TS; j++) {
      u64 bits = 0;
#pragma unroll
      for (int k = 0; k < 8; k++)
        bits |= (u64)parts[(8 * j + k) * PLANE + threadIdx.x] << (8 * k);
      x.planes[j] = transpose_bits(bits);
    }
    to_elements(x);
    store(x, out + (i64)e * TS);
  } else if (e < n) {
#pragma unroll 1
    for (int i = 0; i < OF_THREAD * TS; i++) {
      const int element = i / TS, byte = i % TS;
      int value = 0;
#pragma unroll 1
      for (int k = 0; k < 8; k++)
        value |= (parts[(8 * byte + k) * PLANE + threadIdx.x] >> element & 1) << k;
      out[(i64)e * TS + i] = (u8)value;
    }
  }
  __syncthreads();  // the next tile is staged in the same place
}

// Blocks of chunks, a tile a thread block. nbytes is a multiple of TS.
template <int TS, int KIND>
__global__ void __launch_bounds__(THREADS)
    shuffle(const u8* __restrict__ chunks, u8* __restrict__ shuffled, i64 stride, i64 nbytes,
            int block_bytes, const u32* __restrict__ differs) {
  const int chunk = blockIdx.y;
  if (!differs[chunk]) return;
  const int tiles = ceil_div(block_bytes, TS * TILE);
  const i64 start = (i64)(blockIdx.x / tiles) * block_bytes;
  const int size = (int)smaller<i64>(block_bytes, nbytes - start);
  const int first = blockIdx.x % tiles * TILE;
  const int n = size / TS;
  if (first >= n) return;
  const u8* block = chunks + chunk * stride + start;
  u8* out = shuffled + chunk * stride + start;
  if (KIND == BYTES) {
    shuffle_bytes<TS>(block, out, n, first);
  } else if (n % 8 == 0) {
    shuffle_bits<TS>(block, out, n, first);
  } else {
    const i64 from = (i64)first * TS;
    copy_bytes(out + from, block + from, smaller<i64>(TILE * TS, size - from), threadIdx.x,
               THREADS);
  }
}

// The frames' table is abi.FRAME: target, nbytes, block_bytes, kind.
template <int TS, int KIND>
__global__ void __launch_bounds__(THREADS)
    unshuffle(const i64* __restrict__ frames, const u8* __restrict__ shuffled,
              u8* __restrict__ out) {
  const i64* frame = frames + 4 * blockIdx.y;
  const i64 target = frame[0], nbytes = frame[1], block_bytes = frame[2];
  const bool copied = frame[3] == 0;
  const i64 tiles = (block_bytes + TS * TILE - 1) / (TS * TILE);
  const i64 blocks = (nbytes + block_bytes - 1) / block_bytes;
  for (i64 i = blockIdx.x; i < blocks * tiles; i += gridDim.x) {
    const i64 start = i / tiles * block_bytes;
    const i64 size = smaller(block_bytes, nbytes - start);
    const i64 first = i % tiles * TILE, from = first * TS;
    if (from >= size) continue;
    const int n = (int)(size / TS);
    const u8* block = shuffled + target + start;
    u8* to = out + target + start;
    if (copied || (KIND == BITS && n % 8 != 0)) {
      copy_bytes(to + from, block + from, smaller<i64>(TILE * TS, size - from), threadIdx.x,
                 THREADS);
      continue;
    }
    if (first < n) {
      if (KIND == BYTES) {
        unshuffle_bytes<TS>(block, to, n, (int)first);
      } else {
        unshuffle_bits<TS>(block, to, n, (int)first);
      }
    }
    // The bytes that are no element, by whoever has the block's first tile.
    if (first == 0)
      copy_bytes(to + (i64)n * TS, block + (i64)n * TS, size - (i64)n * TS, threadIdx.x, THREADS);
  }
}
