// Which chunks hold something else than the fill value?
#include "common.cuh"

constexpr int VECTORS_OF_THREAD = 16;

// Sets differs[chunk] where a bit differs from `pattern`, the fill value repeated to 8 bytes.
// Bits, not values: what is left unstored has to read back as it was written. Nearly every chunk
// differs early, so its other thread blocks see the flag and read nothing.
__global__ void __launch_bounds__(THREADS)
    filled(const u8* __restrict__ chunks, i64 chunk_stride, i64 nbytes, u64 pattern,
           volatile u32* differs) {
  const int chunk = blockIdx.y;
  if (differs[chunk]) return;
  const u8* bytes = chunks + chunk * chunk_stride;
  const i64 start = (i64)blockIdx.x * (THREADS * VECTORS_OF_THREAD) + threadIdx.x;
  const i64 vectors = nbytes / 16;
  u64 different = 0;
#pragma unroll 4
  for (int k = 0; k < VECTORS_OF_THREAD; k++) {
    const i64 i = start + k * THREADS;
    if (i < vectors) {
      const ulonglong2 two = ((const ulonglong2*)bytes)[i];
      different |= (two.x ^ pattern) | (two.y ^ pattern);
    }
  }
  const i64 tail = vectors * 16 + threadIdx.x;
  if (blockIdx.x == 0 && tail < nbytes)
    different |= bytes[tail] ^ (u8)(pattern >> (8 * (tail % 8)));
  if (different) differs[chunk] = 1;  // all write the same
}
