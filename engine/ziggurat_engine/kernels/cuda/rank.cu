// How are medians and modes of windows made? By sorting the window in registers.
//
// A thread takes one window of up to N pixels. Pixels become unsigned keys of the same order, so
// that signed numbers and floats need no code of their own, and a sorting network orders them:
// which places it compares is known to the compiler, so the keys never leave the registers and no
// lane waits for another. Places that no pixel has, in smaller windows and those that the edge
// clips, hold the largest key and end up behind the rest.
// The loads of neighbouring lanes lie side by side; the other pixels of a sector that one load
// brings are found in the nearest cache by the next.
#include "windows.cuh"

enum Rank { MEDIAN, MODE };
enum KeyKind { UNSIGNED, SIGNED, REAL };

template <typename K> struct Bits {
  static constexpr K TOP = (K)((K)1 << (8 * sizeof(K) - 1));
  static constexpr K LARGEST = (K)~(K)0;
  // Of floats, for keys of 4 and 8 bytes: the exponent's bits, and the NaN without payload.
  static constexpr K INFINITE =
      sizeof(K) == 4 ? (K)0x7f800000u : (K)(sizeof(K) == 8 ? 0x7ff0000000000000ull : 0);
  static constexpr K NAN_BITS =
      sizeof(K) == 4 ? (K)0x7fc00000u : (K)(sizeof(K) == 8 ? 0x7ff8000000000000ull : 0);
};

// Floats: -0.0 is next below 0.0, and all NaNs are one key above all numbers.
template <typename K> __device__ __forceinline__ K key_of(K bits, int kind) {
  typedef Bits<K> B;
  if (kind == UNSIGNED) return bits;
  if (kind == SIGNED) return bits ^ B::TOP;
  if ((K)(bits & (K)~B::TOP) > B::INFINITE) return B::LARGEST;
  return bits & B::TOP ? (K)~bits : (K)(bits | B::TOP);
}

template <typename K> __device__ __forceinline__ K bits_of(K key, int kind) {
  typedef Bits<K> B;
  if (kind == UNSIGNED) return key;
  if (kind == SIGNED) return key ^ B::TOP;
  if (key == B::LARGEST) return B::NAN_BITS;
  return key & B::TOP ? (K)(key ^ B::TOP) : (K)~key;
}

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

// Windows of 1 x 1 x f2 x f3 x f4 <= N pixels. rank: a Rank, kind: a KeyKind, the same for all
// threads, so that neither makes lanes part.
template <typename K, int N>
__global__ void __launch_bounds__(THREADS)
    rank_of(const u8* __restrict__ chunks, i64 chunk_stride, u8* __restrict__ parents,
            i64 parent_stride, const int* __restrict__ valid, int, int n1, int n2, int n3, int n4,
            int f2, int f3, int f4, int rank, int kind) {
  const int chunk = blockIdx.y;
  valid += 5 * chunk;
  Window window;
  if (!find_window(window, blockIdx.x * THREADS + threadIdx.x, valid, n1, n2, n3, n4, f2, f3, f4,
                   1))
    return;
  const K* first = (const K*)(chunks + chunk * chunk_stride) + window.first;
  const int columns = smaller(f4, valid[4] - window.x * f4);
  const int count = window.planes * window.rows * columns;

  K keys[N];
  int plane = 0, line = 0, column = 0;
#pragma unroll
  for (int i = 0; i < N; i++) {
    keys[i] = Bits<K>::LARGEST;
    if (plane < window.planes && line < window.rows && column < columns)
      keys[i] = key_of(first[((i64)plane * n3 + line) * n4 + column], kind);
    // The factors are the same for all threads, so this is not done by each lane.
    if (++column == f4) {
      column = 0;
      if (++line == f3) {
        line = 0;
        plane++;
      }
    }
  }
  sort(keys);

  K found = keys[0];
  if (rank == MEDIAN) {
    const int middle = (count - 1) / 2;
#pragma unroll
    for (int i = 1; i < N; i++)
      if (i == middle) found = keys[i];
  } else {
    K start = keys[0];  // of the run of equal keys that goes on
    int run = 1, longest = 1;
#pragma unroll
    for (int i = 1; i < N; i++) {
      // A run of zeros begins with -0.0 if it has one.
      const bool zeros = kind == REAL && start == Bits<K>::TOP - 1 && keys[i] == Bits<K>::TOP;
      const bool same = keys[i] == start || zeros;
      run = same ? run + 1 : 1;
      start = same ? start : keys[i];
      if (run > longest && i < count) {
        longest = run;
        found = start;
      }
    }
  }
  ((K*)(parents + chunk * parent_stride))[window.parent] = bits_of(found, kind);
}
