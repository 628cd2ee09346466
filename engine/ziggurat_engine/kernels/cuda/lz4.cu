// How does a warp compress an LZ4 block, and decompress one that it must not trust?
//
// The format is "LZ4 Block Format" (lz4 1.10, doc/lz4_Block_format.md). A block is a sequence of
//
//     token (literals << 4 | match - 4), [literals - 15], literals, offset, [match - 4 - 15]
//
// lengths above the nibble's 15 go on in bytes of 255 and a last smaller one, and the last
// sequence ends behind its literals. The last 5 bytes are literals, and no match starts in the
// last 12.
//
// One warp has one block, and its thread block is that warp: the hash table of 8 KiB then allows 28
// of them on a multiprocessor of 228 KiB, and nothing waits for another block's end. Blocks are
// independent, so a batch of a few thousand fills a card; below a thousand it is half idle.
#include "common.cuh"

constexpr int HASH_BITS = 12;
constexpr int TABLE_VECTORS = (sizeof(u16) << HASH_BITS) / 16;
constexpr int MIN_MATCH = 4;
constexpr int LAST_LITERALS = 5;
constexpr int NO_MATCH_IN = 12;  // bytes at the end that no match starts in
constexpr int NIBBLE = 15;

__device__ __forceinline__ u32 hash_of(u32 four) { return four * 2654435761u >> (32 - HASH_BITS); }

// The 4 bytes at `at`; reads up to at + 7. `block`: a multiple of 4.
__device__ __forceinline__ u32 four_at(const u8* block, int at) {
  const u32* words = (const u32*)block + at / 4;
  return __funnelshift_r(words[0], words[1], 8 * (at % 4));
}

// Bytes of a length that goes on behind its nibble.
__device__ __forceinline__ int bytes_of_length(int length) {
  return length < NIBBLE ? 0 : (length - NIBBLE) / 255 + 1;
}

__device__ __forceinline__ int put_length(u8* out, int at, int length, int lane) {
  if (length < NIBBLE) return at;
  const int full = (length - NIBBLE) / 255;
  for (int i = lane; i < full; i += WARP) out[at + i] = 255;
  if (lane == 0) out[at + full] = (u8)(length - NIBBLE - 255 * full);
  return at + full + 1;
}

// Copies n literals; their places in `out` and in the block are of any alignment. Words are
// written whole and read as two, up to 7 bytes beyond: only while that is within `size`.
__device__ __forceinline__ void put_literals(u8* out, const u8* block, int from, int n, int size,
                                             int lane) {
  const int head = smaller(n, (int)(-(u64)out & 3));
  if (lane < head) out[lane] = block[from + lane];
  // Fewer than 8 bytes left in the block: no word, and none below zero.
  const int words = larger(0, smaller((n - head) / 4, (size - from - head - 4) / 4));
  u32* target = (u32*)(out + head);
#pragma unroll 4
  for (int i = lane; i < words; i += WARP) target[i] = four_at(block, from + head + 4 * i);
  for (int i = head + 4 * words + lane; i < n; i += WARP)
    out[i] = block[from + i];
}

// How many bytes before `at` and `candidate` are equal, down to `least` and 0.
__device__ __forceinline__ int equal_before(const u8* block, int at, int candidate, int least,
                                            int lane) {
  int length = 0;
  for (;;) {
    const int back = length + lane + 1;
    const bool same = at - back >= least && candidate - back >= 0 &&
                      block[at - back] == block[candidate - back];
    const u32 differ = ~__ballot_sync(ALL_LANES, same);
    if (differ) return length + __ffs(differ) - 1;
    length += WARP;
  }
}

// How many bytes from `at` and `candidate` on are equal, up to `end`; the first 4 are. 128 a step.
__device__ __forceinline__ int equal_after(const u8* block, int at, int candidate, int end,
                                           int lane) {
  int length = MIN_MATCH;
  for (;;) {
    const int p = at + length + 4 * lane, c = candidate + length + 4 * lane;
    int same = 0;
    if (p + 4 <= end) {
      const u32 difference = four_at(block, p) ^ four_at(block, c);
      same = difference ? (__ffs(difference) - 1) / 8 : 4;
    } else {
      while (p + same < end && block[p + same] == block[c + same]) same++;
    }
    const u32 ended = __ballot_sync(ALL_LANES, same < 4);
    if (ended) {
      const int lane_of_end = __ffs(ended) - 1;
      return length + 4 * lane_of_end + __shfl_sync(ALL_LANES, same, lane_of_end);
    }
    length += 4 * WARP;
  }
}

// Compresses to less than `size` bytes and returns how many, or returns `size`: it would not
// shrink, and `out` holds anything. out: of `size` bytes.
//
// Greedy, with one place a hash. The lanes look at 32 positions at once; the first that has a match
// wins, is extended both ways, and the search goes on behind it. Lanes with the same hash find each
// other, and the last of them is kept in the table: what is written does not depend on which
// lane is faster. Where nothing matches the search takes larger and larger steps, as lz4 does.
__device__ inline int compress_block(const u8* block, int size, u8* out, u16* table, int lane) {
  const int last_start = size - NO_MATCH_IN;  // of a match
  int at = 0, literals = 0;                   // where the search is; the first byte not yet written
  int written = 0, misses = 0;
  while (at <= last_start) {
    const int step = 1 + misses / 2;
    const int p = at + lane * step;
    const bool inside = p <= last_start;
    const u32 four = inside ? four_at(block, p) : 0;
    const u32 hash = inside ? hash_of(four) : (1u << HASH_BITS) + lane;  // alike to none
    const u32 alike = __match_any_sync(ALL_LANES, hash);
    const u32 below = alike & ((1u << lane) - 1);
    int candidate = 0;
    if (inside) candidate = below ? at + (31 - __clz(below)) * step : table[hash];
    // A table that holds nothing yet says 0: a position like any other.
    const bool hit = inside && candidate < p && four_at(block, candidate) == four;
    const u32 hits = __ballot_sync(ALL_LANES, hit);

    int end = at + WARP * step;  // where the search goes on
    int start = 0, offset = 0;
    if (hits) {
      const int winner = __ffs(hits) - 1;
      start = __shfl_sync(ALL_LANES, p, winner);
      candidate = __shfl_sync(ALL_LANES, candidate, winner);
      offset = start - candidate;
      end = start + equal_after(block, start, candidate, size - LAST_LITERALS, lane);
      start -= equal_before(block, start, candidate, literals, lane);
    }
    // Positions from `end` on are looked at again, and must not find themselves.
    const u32 passed = __ballot_sync(ALL_LANES, inside && p < end);
    __syncwarp();  // a ballot orders lanes, but not their memory: all have read the table
    if ((alike & passed) >> lane == 1) table[hash] = (u16)p;
    __syncwarp();
    at = end;
    if (!hits) {
      misses++;
      continue;
    }
    misses = 0;

    const int count = start - literals, length = end - start - MIN_MATCH;
    const int needed = 1 + bytes_of_length(count) + count + 2 + bytes_of_length(length);
    if (written + needed >= size) return size;
    if (lane == 0)
      out[written] = (u8)(smaller(count, NIBBLE) << 4 | smaller(length, NIBBLE));
    written = put_length(out, written + 1, count, lane);
    put_literals(out + written, block, literals, count, size, lane);
    written += count;
    if (lane < 2) out[written + lane] = (u8)(offset >> (8 * lane));
    written = put_length(out, written + 2, length, lane);
    literals = end;
  }
  const int count = size - literals;
  if (written + 1 + bytes_of_length(count) + count >= size) return size;
  if (lane == 0) out[written] = (u8)(smaller(count, NIBBLE) << 4);
  written = put_length(out, written + 1, count, lane);
  put_literals(out + written, block, literals, count, size, lane);
  return written + count;
}

// Blocks of chunks, a warp a block. csizes: 0 for chunks of nothing but fill value.
__global__ void __launch_bounds__(WARP)
    lz4_compress(const u8* __restrict__ source, i64 stride, i64 nbytes, int block_bytes,
                 u8* __restrict__ slots, i64 slot_stride, int* __restrict__ csizes,
                 const u32* __restrict__ differs) {
  __shared__ uint4 table[TABLE_VECTORS];
  const int lane = threadIdx.x, chunk = blockIdx.y;
  const i64 index = (i64)chunk * gridDim.x + blockIdx.x;
  int csize = 0;
  if (differs[chunk]) {
    const i64 start = (i64)blockIdx.x * block_bytes;
    const int size = (int)smaller<i64>(block_bytes, nbytes - start);
    for (int i = lane; i < TABLE_VECTORS; i += WARP) table[i] = make_uint4(0, 0, 0, 0);
    __syncwarp();
    csize = compress_block(source + chunk * stride + start, size, slots + index * slot_stride,
                           (u16*)table, lane);
  }
  if (lane == 0) csizes[index] = csize;
}

// A length's bytes from in[at] on, 32 at a time. Returns where they end, or -1 where they don't
// within `end`, or where the length is above `most`.
__device__ __forceinline__ int get_length(const u8* in, int at, int end, int most, int& length,
                                          int lane) {
  for (;;) {
    const bool inside = at + lane < end;
    const int byte = inside ? in[at + lane] : 0;
    const u32 last = __ballot_sync(ALL_LANES, byte != 255);
    if (last) {
      const int n = __ffs(last) - 1;
      if (at + n >= end) return -1;
      length += 255 * n + __shfl_sync(ALL_LANES, byte, n);
      return length > most ? -1 : at + n + 1;
    }
    length += 255 * WARP;
    if (length > most) return -1;
    at += WARP;
  }
}

// The match of `length` bytes behind out[done]. A match may overlap what it writes: then it
// repeats `offset` bytes, and every lane reads only what was there before it.
__device__ __forceinline__ void put_match(u8* out, int done, int offset, int length, int lane) {
  const u8* from = out + done - offset;
  u8* to = out + done;
  if (offset >= length) {
#pragma unroll 4
    for (int i = lane; i < length; i += WARP) to[i] = from[i];
    return;
  }
  const int step = WARP % offset;
  int place = lane % offset;
  for (int i = lane; i < length; i += WARP) {
    to[i] = from[place];
    place += step;
    if (place >= offset) place -= offset;
  }
}

// Whether in[0, csize) is LZ4 of exactly `size` bytes; these are then in `out`. Every length is
// checked against what is left of both before a byte is moved.
__device__ inline bool decompress_block(const u8* in, int csize, u8* out, int size, int lane) {
  int at = 0, done = 0;
  while (at < csize) {
    // One load brings the token, and mostly the whole sequence.
    const int byte = at + lane < csize ? in[at + lane] : 0;
    const int token = __shfl_sync(ALL_LANES, byte, 0);
    int count = token >> 4, offset;
    at++;
    if (count < NIBBLE) {
      if (count > csize - at || count > size - done) return false;
      if (lane >= 1 && lane <= count) out[done + lane - 1] = (u8)byte;
      offset = __shfl_sync(ALL_LANES, byte, count + 1);
      offset |= __shfl_sync(ALL_LANES, byte, count + 2) << 8;
    } else {
      at = get_length(in, at, csize, size - done, count, lane);
      if (at < 0 || count > csize - at) return false;
      copy_bytes(out + done, in + at, count, lane, WARP);
      const int ahead = at + count;
      offset = ahead + 2 <= csize ? in[ahead] | in[ahead + 1] << 8 : 0;
    }
    at += count;
    done += count;
    if (at == csize) return done == size;
    if (csize - at < 2 || offset == 0 || offset > done) return false;
    at += 2;
    int length = token & NIBBLE;
    if (length == NIBBLE) {
      at = get_length(in, at, csize, size - done, length, lane);
      if (at < 0) return false;
    }
    length += MIN_MATCH;
    if (length > size - done) return false;
    __syncwarp();  // the match may begin in the literals
    put_match(out, done, offset, length, lane);
    __syncwarp();
    done += length;
  }
  return false;
}

// The streams' table is abi.STREAM: source, csize, target, size. A warp a stream, four a thread
// block: without a hash table it is warps, not memory, that a multiprocessor runs out of.
__global__ void __launch_bounds__(4 * WARP)
    lz4_decompress(const u8* __restrict__ compressed, const i64* __restrict__ streams, int count,
                   u8* out, int* __restrict__ status) {
  const int lane = threadIdx.x % WARP;
  const i64 index = (i64)blockIdx.x * 4 + threadIdx.x / WARP;
  if (index >= count) return;
  const i64* stream = streams + 4 * index;
  const u8* in = compressed + stream[0];
  const int csize = (int)stream[1], size = (int)stream[3];
  u8* to = out + stream[2];
  bool good = true;
  if (csize == size) {
    copy_bytes(to, in, size, lane, WARP);
  } else {
    good = decompress_block(in, csize, to, size, lane);
  }
  if (lane == 0) status[index] = good ? 0 : 1;
}
