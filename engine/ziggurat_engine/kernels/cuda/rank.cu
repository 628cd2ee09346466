// How are medians and modes of windows made? By sorting the window in registers.
//
// A thread takes one window of up to N pixels. Pixels become unsigned keys of the same order, so
// that signed numbers and floats need no code of their own, and a sorting network orders them:
// which places it compares is known to the compiler, so the keys never leave the registers and no
// lane waits for another. Places that no pixel has, in smaller windows and those that the edge
// clips, hold the largest key and end up behind the rest. Where all pixels are equal, as nearly
// everywhere in labels, nothing is sorted.
//
// The loads of neighbouring lanes lie side by side, two pixels each where windows are two wide; the
// other pixels of a sector that one load brings are found in the nearest cache by the next.
#include "windows.cuh"

enum Rank { MEDIAN, MODE };

// Keys have the registers' size: the compiler would keep an array of smaller ones in memory.
template <typename P> struct KeyOf { typedef u32 type; };
template <> struct KeyOf<u64> { typedef u64 type; };

template <typename K> struct Bits {
  static constexpr K TOP = (K)1 << (8 * sizeof(K) - 1);
  static constexpr K LARGEST = ~(K)0;
  // Of floats: the exponent's bits, and the NaN without payload.
  static constexpr K INFINITE = (K)(sizeof(K) == 4 ? 0x7f800000ull : 0x7ff0000000000000ull);
  static constexpr K PLAIN_NAN = (K)(sizeof(K) == 4 ? 0x7fc00000ull : 0x7ff8000000000000ull);
};

// Floats: -0.0 is next below 0.0, and all NaNs are the largest key.
template <typename K> __device__ __forceinline__ K key_of_real(K bits) {
  typedef Bits<K> B;
  if ((bits & ~B::TOP) > B::INFINITE) return B::LARGEST;
  return bits & B::TOP ? ~bits : bits | B::TOP;
}

template <typename K> __device__ __forceinline__ K bits_of_real(K key) {
  typedef Bits<K> B;
  if (key == B::LARGEST) return B::PLAIN_NAN;
  return key & B::TOP ? key ^ B::TOP : ~key;
}

template <typename P> struct alignas(2 * sizeof(P)) Pair {
  P left, right;
};

// Batcher's merge exchange (Knuth, TAOCP 3, 5.2.2, algorithm M) as a list, for any N: 19 pairs for
// 8, 155 for 27.
template <int N> struct Network {
  int count = 0;
  u8 first[N * N / 2] = {}, second[N * N / 2] = {};
  __device__ constexpr Network() {
    for (int p = 1; p < N; p *= 2)
      for (int k = p; k > 0; k /= 2)
        for (int i = k % p; i < N - k; i++)
          if ((i - k % p) % (2 * k) < k && i / (2 * p) == (i + k) / (2 * p)) {
            first[count] = (u8)i;
            second[count++] = (u8)(i + k);
          }
  }
};

template <typename K, int N> __device__ __forceinline__ void sort(K (&keys)[N]) {
  constexpr Network<N> network;
#pragma unroll
  for (int i = 0; i < network.count; i++) {
    const K a = keys[network.first[i]], b = keys[network.second[i]];
    keys[network.first[i]] = a < b ? a : b;
    keys[network.second[i]] = a < b ? b : a;
  }
}

template <typename K, int N>
__device__ __forceinline__ K mode(const K (&keys)[N], int count, bool real) {
  typedef Bits<K> B;
  K found = keys[0], start = keys[0];  // of the run of equal keys that goes on
  int run = 1, longest = 1;
#pragma unroll
  for (int i = 1; i < N; i++) {
    // A run of zeros begins with -0.0 if it has one.
    const bool zeros = real && start == B::TOP - 1 && keys[i] == B::TOP;
    const bool same = keys[i] == start || zeros;
    run = same ? run + 1 : 1;
    start = same ? start : keys[i];
    if (run > longest && i < count) {
      longest = run;
      found = start;
    }
  }
  return found;
}

template <typename K, int N>
__device__ __forceinline__ K median(const K (&keys)[N], int count) {
  // Of an index, or of a choice by one, the compiler makes an array in memory; of masks it can't.
  K found = 0;
#pragma unroll
  for (int i = 0; i < N; i++) found |= keys[i] & (i == (count - 1) / 2 ? ~(K)0 : 0);
  return found;
}

// Windows of 1 x 1 x f2 x f3 x f4 <= N pixels. flip: bits to invert so that integers have the
// order of unsigned ones; real: they are floats. These and `rank` are the same for all threads.
template <typename P, int N>
__global__ void __launch_bounds__(THREADS)
    rank_of(const u8* __restrict__ chunks, i64 chunk_stride, u8* __restrict__ parents,
            i64 parent_stride, const int* __restrict__ valid, int, int n1, int n2, int n3, int n4,
            int f2, int f3, u64 flip, int f4, int rank, int real) {
  typedef typename KeyOf<P>::type K;
  const int chunk = blockIdx.y;
  valid += 5 * chunk;
  Window window;
  if (!find_window(window, blockIdx.x * THREADS + threadIdx.x, valid, n1, n2, n3, n4, f2, f3, f4,
                   1))
    return;
  const P* first = (const P*)(chunks + chunk * chunk_stride) + window.first;
  const int columns = smaller(f4, valid[4] - window.x * f4);
  const int count = window.planes * window.rows * columns;

  K keys[N];
#pragma unroll
  for (int i = 0; i < N; i++) keys[i] = Bits<K>::LARGEST ^ (K)flip;  // as a float: a NaN
  if (f4 == 2 && count == f2 * f3 * 2 && n4 % 2 == 0) {
    Rows place;
#pragma unroll
    for (int row = 0; row < N / 2; row++) {
      if (row < f2 * f3) {
        const Pair<P> pair = *(const Pair<P>*)(first + place.offset);
        keys[2 * row] = pair.left;
        keys[2 * row + 1] = pair.right;
        place.next(f3, n3, n4);
      }
    }
  } else {
    int plane = 0, line = 0, column = 0;
#pragma unroll
    for (int i = 0; i < N; i++) {
      if (plane < window.planes && line < window.rows && column < columns)
        keys[i] = first[((i64)plane * n3 + line) * n4 + column];
      if (++column == f4) {
        column = 0;
        if (++line == f3) {
          line = 0;
          plane++;
        }
      }
    }
  }
  bool equal = count == N;
#pragma unroll
  for (int i = 1; i < N; i++) equal = equal && keys[i] == keys[0];

#pragma unroll
  for (int i = 0; i < N; i++) {
    if constexpr (sizeof(P) >= 4)
      keys[i] = real ? key_of_real(keys[i]) : keys[i] ^ (K)flip;
    else
      keys[i] ^= (K)flip;
  }
  K found = keys[0];
  if (!equal) {
    sort(keys);
    found = rank == MEDIAN ? median(keys, count) : mode(keys, count, sizeof(P) >= 4 && real);
  }
  if constexpr (sizeof(P) >= 4)
    found = real ? bits_of_real(found) : found ^ (K)flip;
  else
    found ^= (K)flip;
  ((P*)(parents + chunk * parent_stride))[window.parent] = (P)found;
}
