// How do compressed blocks become Blosc frames that lie side by side, ready for one copy to the host?
//
// A frame (c-blosc 1.21, README_CHUNK_FORMAT.rst), little-endian:
//
//     0   version 2, codec version 1, flags, typesize
//     4   int32 nbytes, int32 block size, int32 frame bytes
//     16  int32 bstarts[blocks]              where each block begins, from the frame's start
//         block: int32 csize, payload        csize == bytes of the block: they are raw
//
// Blocks may have gaps between them. Each begins 4 bytes before a multiple of 16, so that its
// payload, as long as frames begin at one, is copied 16 bytes a lane. Gaps are zeroed: what else
// lies on the device must not end up in files. Where a frame would not be smaller than the
// chunk it holds the chunk as it is, behind the header (flag 0x02, no bstarts).
#include "common.cuh"

constexpr int HEADER = 16;
constexpr u32 MEMCPYED = 0x02;

__device__ __forceinline__ int size_of_block(i64 nbytes, int block_bytes, i64 block) {
  return (int)smaller<i64>(block_bytes, nbytes - block * block_bytes);
}

// What a block of that csize takes, from the csize to that of the next block.
__device__ __forceinline__ i64 step_of(int csize) { return round_up(csize + 4, 16); }

__device__ __forceinline__ i64 first_start(i64 blocks) {
  return round_up(HEADER + 4 * blocks + 4, 16) - 4;
}

// Of the blocks of all chunks: bytes that another compressor wrote -> csizes. bad: counts blocks
// of which it says that something is wrong, or that cannot be.
__global__ void __launch_bounds__(THREADS)
    adopt_sizes(const u64* __restrict__ found, const int* __restrict__ statuses, i64 nbytes,
                int block_bytes, i64 slot_stride, int plain, int count,
                int* __restrict__ csizes, u32* bad) {
  const int index = blockIdx.x * THREADS + threadIdx.x;
  if (index >= count) return;
  const int blocks = (int)((nbytes + block_bytes - 1) / block_bytes);
  const u64 size = size_of_block(nbytes, block_bytes, index % blocks), csize = found[index];
  const bool good = csize > 0 && csize <= (u64)slot_stride && (!statuses || statuses[index] == 0);
  if (!good) atomicAdd(bad, 1u);
  // A plain frame is what it is; a block that did not shrink is taken raw.
  csizes[index] = !good ? 0 : plain ? (int)csize : (int)smaller(csize, size);
}

// A thread block a chunk: bstarts and the frame's size.
__global__ void __launch_bounds__(THREADS)
    frame_sizes(const int* __restrict__ csizes, i64 nbytes, int block_bytes, int plain,
                const u32* __restrict__ differs, int* __restrict__ bstarts,
                i64* __restrict__ sizes) {
  const i64 blocks = (nbytes + block_bytes - 1) / block_bytes;
  const i64 chunk = blockIdx.x;
  csizes += chunk * blocks;
  bstarts += chunk * blocks;
  if (!differs[chunk]) {
    if (threadIdx.x == 0) sizes[chunk] = 0;
    return;
  }
  if (plain) {
    if (threadIdx.x == 0) sizes[chunk] = csizes[0];
    return;
  }
  i64 before = first_start(blocks);
  for (i64 first = 0; first < blocks; first += THREADS) {
    const i64 block = first + threadIdx.x;
    i64 total;
    const i64 start = before + sum_below(block < blocks ? step_of(csizes[block]) : 0, total);
    // Beyond 2^31 the chunk is stored as it is, and this is not read.
    if (block < blocks) bstarts[block] = (int)start;
    if (block == blocks - 1) {
      const i64 size = start + 4 + csizes[block];
      sizes[chunk] = smaller(size, nbytes + HEADER);
    }
    before += total;
  }
}

// One thread block. Frames begin at multiples of `align`.
__global__ void __launch_bounds__(THREADS)
    frame_offsets(const i64* __restrict__ sizes, int count, int align,
                  i64* __restrict__ offsets) {
  i64 before = 0;
  for (int first = 0; first < count; first += THREADS) {
    const int i = first + threadIdx.x;
    i64 total;
    const i64 offset = before + sum_below(i < count ? round_up(sizes[i], align) : 0, total);
    if (i < count) offsets[i] = offset;
    before += total;
  }
  if (threadIdx.x == 0) offsets[count] = before;
}

// A thread block a Blosc block. source: what was compressed, for blocks that stay raw.
__global__ void __launch_bounds__(THREADS)
    frame_gather(const u8* __restrict__ chunks, const u8* __restrict__ source, i64 stride,
                 const u8* __restrict__ slots, i64 slot_stride, const int* __restrict__ csizes,
                 const int* __restrict__ bstarts, const i64* __restrict__ sizes,
                 const i64* __restrict__ offsets, i64 nbytes, int block_bytes, int typesize,
                 u32 flags, int plain, u8* __restrict__ frames) {
  const int block = blockIdx.x, blocks = gridDim.x, thread = threadIdx.x;
  const i64 chunk = blockIdx.y, index = chunk * blocks + block;
  const i64 size = sizes[chunk];
  if (size == 0) return;
  u8* frame = frames + offsets[chunk];
  const i64 start = (i64)block * block_bytes;
  const int bytes = size_of_block(nbytes, block_bytes, block);
  if (block == blocks - 1)  // up to the next frame
    zero_bytes(frame + size, offsets[chunk + 1] - offsets[chunk] - size, thread, THREADS);
  const u8* slot = slots + index * slot_stride;
  if (plain) {
    copy_bytes(frame, slot, size, thread, THREADS);
    return;
  }
  const bool memcpyed = size == nbytes + HEADER;
  if (block == 0 && thread == 0) {
    u32* header = (u32*)frame;
    header[0] = 2 | 1 << 8 | (flags | (memcpyed ? MEMCPYED : 0)) << 16 | (u32)typesize << 24;
    header[1] = (u32)nbytes;
    header[2] = (u32)block_bytes;
    header[3] = (u32)size;
  }
  if (memcpyed) {
    copy_bytes(frame + HEADER + start, chunks + chunk * stride + start, bytes, thread, THREADS);
    return;
  }
  if (block == 0) {
    const i64 end = HEADER + 4 * (i64)blocks;
    zero_bytes(frame + end, first_start(blocks) - end, thread, THREADS);
  }
  const int csize = csizes[index], bstart = bstarts[index];
  if (thread == 0) {
    ((u32*)(frame + HEADER))[block] = bstart;
    *(u32*)(frame + bstart) = csize;
  }
  u8* payload = frame + bstart + 4;
  copy_bytes(payload, csize == bytes ? source + chunk * stride + start : slot, csize, thread,
             THREADS);
  if (block < blocks - 1)
    zero_bytes(payload + csize, step_of(csize) - 4 - csize, thread, THREADS);
}
