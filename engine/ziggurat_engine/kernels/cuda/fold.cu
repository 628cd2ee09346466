// How are means, minima, maxima and first pixels of windows made at the speed of memory?
//
// A thread makes a few windows that are neighbours along x: it loads 16 bytes of each row (48 for
// windows three wide), and folds their pixels into one accumulator a window, in registers.
// Neighbouring lanes read neighbouring 16 bytes, every byte once, so the kernel costs what
// reading the chunk costs. Four rows are loaded before the first is folded, to have several loads
// in flight. What the edge clips, and rows that do not begin at multiples of 16 bytes, go pixel
// by pixel.
//
// The members of a window are folded in lexicographic order, which kernels/reference.py fixes;
// floats are added in their own type, and no multiplication is near that could be fused with it.
#include "windows.cuh"

enum Method { MEAN, MIN, STRIDE };

constexpr int ROWS_AHEAD = 4;

template <typename T> struct Kind;  // sum: of 27 pixels at least
template <> struct Kind<u8> { typedef u32 sum; static constexpr bool real = false; };
template <> struct Kind<u16> { typedef u32 sum; static constexpr bool real = false; };
template <> struct Kind<u32> { typedef u64 sum; static constexpr bool real = false; };
template <> struct Kind<u64> { typedef u64 sum; static constexpr bool real = false; };
template <> struct Kind<float> { typedef float sum; static constexpr bool real = true; };
template <> struct Kind<double> { typedef double sum; static constexpr bool real = true; };

__device__ __forceinline__ void set_nan(float& x) { x = __int_as_float(0x7fc00000); }
__device__ __forceinline__ void set_nan(double& x) {
  x = __longlong_as_double(0x7ff8000000000000ll);
}
__device__ __forceinline__ void set_infinity(float& x) { x = __int_as_float(0x7f800000); }
__device__ __forceinline__ void set_infinity(double& x) {
  x = __longlong_as_double(0x7ff0000000000000ll);
}

template <typename S>
__device__ __forceinline__ S divide(S a, u32 n) {
  return (n & (n - 1)) == 0 ? a >> (__ffs(n) - 1) : a / n;
}

// sum / n, half to even.
template <typename S>
__device__ __forceinline__ S half_even(S sum, u32 n) {
  const S quotient = divide(sum, n);
  const S twice = 2 * (sum - quotient * n);
  return quotient + (twice > n || (twice == n && (quotient & 1)));
}

template <typename T, int METHOD> struct Fold;

template <typename T, bool REAL = Kind<T>::real> struct Mean;

template <typename T> struct Mean<T, false> {
  typename Kind<T>::sum sum = 0;
  __device__ __forceinline__ void add(T pixel) { sum += pixel; }
  __device__ __forceinline__ T result(u32 n) const { return (T)half_even(sum, n); }
};

// Halves are summed apart. With upper = q * n + rest, the mean is q * 2^32 + (rest * 2^32 +
// lower) / n, and the bracket stays below n * 2^33.
template <> struct Mean<u64, false> {
  u64 upper = 0, lower = 0;
  __device__ __forceinline__ void add(u64 pixel) {
    upper += pixel >> 32;
    lower += pixel & 0xffffffffu;
  }
  __device__ __forceinline__ u64 result(u32 n) const {
    const u64 above = divide(upper, n);
    const u64 rest = ((upper - above * n) << 32) + lower;
    const u64 below = divide(rest, n);
    const u64 twice = 2 * (rest - below * n);
    const u64 quotient = (above << 32) + below;
    return quotient + (twice > n || (twice == n && (quotient & 1)));
  }
};

template <typename T> struct Mean<T, true> {
  T sum = 0;
  __device__ __forceinline__ void add(T pixel) { sum = sum + pixel; }
  __device__ __forceinline__ T result(u32 n) const {
    T mean = sum / (T)n;
    if (mean != mean) set_nan(mean);  // a NaN has no payload
    return mean;
  }
};

template <typename T> struct Fold<T, MEAN> : Mean<T> {};

// Floats begin with infinity, which no NaN is less than; of -0.0 and 0.0 the first stays.
template <typename T> struct Fold<T, MIN> {
  T found;
  __device__ __forceinline__ Fold() {
    if constexpr (Kind<T>::real) {
      set_infinity(found);
    } else {
      found = (T)~(T)0;
    }
  }
  __device__ __forceinline__ void add(T pixel) {
    if (pixel < found) found = pixel;
  }
  __device__ __forceinline__ T result(u32) const { return found; }
};

template <typename T> struct Fold<T, STRIDE> {
  T first;
  __device__ __forceinline__ void add(T pixel) { first = pixel; }
  __device__ __forceinline__ T result(u32) const { return first; }
};

// As abi.windows_of_thread.
template <typename T, int FX> struct Shape {
  static constexpr int UNBINNED = 16 / sizeof(T);
  static constexpr int WINDOWS = FX == 2 ? UNBINNED / 2 : UNBINNED;
  static constexpr int PIXELS = WINDOWS * FX;
  static constexpr int VECTORS = PIXELS * sizeof(T) / 16;
};

template <typename T, int N> union Pixels {
  T at[N];
  uint4 vectors[(N * sizeof(T) + 15) / 16];
  uint2 half;
  __device__ __forceinline__ Pixels() {}
};

// With the bits of `flip` inverted, on the way in and on the way out. So one code serves for
// signed and unsigned pixels (all numbers move by an even one, which keeps their order and what
// is half to even), and a maximum is the minimum of what is inverted.
template <typename T> __device__ __forceinline__ T flipped(T pixel, u64 flip) {
  return pixel ^ (T)flip;
}
__device__ __forceinline__ float flipped(float pixel, u64 flip) {
  return flip ? -pixel : pixel;
}
__device__ __forceinline__ double flipped(double pixel, u64 flip) {
  return flip ? -pixel : pixel;
}

// parents: see abi.py. chunk shape n0..n4, windows of 1 x 1 x f2 x f3 x FX.
template <typename T, int METHOD, int FX>
__global__ void __launch_bounds__(THREADS)
    fold(const u8* __restrict__ chunks, i64 chunk_stride, u8* __restrict__ parents,
         i64 parent_stride, const int* __restrict__ valid, int, int n1, int n2, int n3, int n4,
         int f2, int f3, u64 flip) {
  typedef Shape<T, FX> S;
  const int chunk = blockIdx.y;
  valid += 5 * chunk;
  Window window;
  if (!find_window(window, blockIdx.x * THREADS + threadIdx.x, valid, n1, n2, n3, n4, f2, f3, FX,
                   S::WINDOWS))
    return;
  const T* first = (const T*)(chunks + chunk * chunk_stride) + window.first;
  T* target = (T*)(parents + chunk * parent_stride) + window.parent;
  const int left = valid[4] - window.x * FX;  // pixels of a row from the first window on
  const int rows = METHOD == STRIDE ? 1 : window.planes * window.rows;

  if (left < S::PIXELS || n4 % S::UNBINNED != 0) {
    const int count = smaller(S::WINDOWS, window.width - window.x);
    for (int i = 0; i < count; i++) {
      Fold<T, METHOD> fold;
      const int columns = METHOD == STRIDE ? 1 : smaller(FX, left - i * FX);
      Rows place;
      for (int row = 0; row < rows; row++) {
        const T* source = first + place.offset + i * FX;
        for (int k = 0; k < columns; k++) fold.add(flipped(source[k], flip));
        place.next(window.rows, n3, n4);
      }
      target[i] = flipped(fold.result(rows * columns), flip);
    }
    return;
  }

  Fold<T, METHOD> folds[S::WINDOWS];
  Rows place;
  for (int row = 0; row < rows; row += ROWS_AHEAD) {
    Pixels<T, S::PIXELS> pixels[ROWS_AHEAD];
#pragma unroll
    for (int ahead = 0; ahead < ROWS_AHEAD; ahead++) {
      if (row + ahead < rows) {
        const uint4* source = (const uint4*)(first + place.offset);
#pragma unroll
        for (int i = 0; i < S::VECTORS; i++) pixels[ahead].vectors[i] = source[i];
        place.next(window.rows, n3, n4);
      }
    }
#pragma unroll
    for (int ahead = 0; ahead < ROWS_AHEAD; ahead++) {
      if (row + ahead < rows) {
#pragma unroll
        for (int i = 0; i < S::PIXELS; i += METHOD == STRIDE ? FX : 1)
          folds[i / FX].add(flipped(pixels[ahead].at[i], flip));
      }
    }
  }
  Pixels<T, S::WINDOWS> results;
#pragma unroll
  for (int i = 0; i < S::WINDOWS; i++)
    results.at[i] = flipped(folds[i].result(rows * FX), flip);
  if (window.width % S::WINDOWS != 0) {
#pragma unroll
    for (int i = 0; i < S::WINDOWS; i++) target[i] = results.at[i];
  } else if (sizeof(T) * S::WINDOWS == 16) {
    *(uint4*)target = results.vectors[0];
  } else {
    *(uint2*)target = results.half;
  }
}
