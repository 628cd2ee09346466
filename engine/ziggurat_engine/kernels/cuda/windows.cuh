// Which pixels belong to a window? Where the grids of all downsampling kernels meet the batch.
#pragma once
#include "common.cuh"

// Where a chunk's windows lie. Five axes, of which the last three may be binned.
struct Window {
  i64 first;        // pixels from the chunk's first one to the window's
  i64 parent;       // pixels from the parent's first one to the window's
  int planes, rows; // members along axes 2 and 3: fewer at the edge
  int x;            // of the first window of this thread, in the parent
  int width;        // of the parent's rows
};

// The windows of thread `index` of a chunk: `per_thread` neighbours along x. False: there are none.
//
// Threads are numbered by what the chunk's valid pixels need, so that a clipped chunk leaves whole
// thread blocks idle rather than lanes of all of them; neighbours along x are neighbouring lanes.
__device__ __forceinline__ bool find_window(Window& window, u32 index, const int* valid, int n1,
                                            int n2, int n3, int n4, int f2, int f3, int f4,
                                            int per_thread) {
  const int v1 = valid[1], v2 = valid[2], v3 = valid[3], v4 = valid[4];
  const u32 depth = ceil_div(v2, f2), height = ceil_div(v3, f3), width = ceil_div(v4, f4);
  const u32 groups = ceil_div(width, per_thread);
  const u32 group = index % groups;
  index /= groups;
  const u32 row = index % height;
  u32 rest = index / height;
  const u32 plane = rest % depth;
  rest /= depth;
  if (rest >= (u32)(valid[0] * v1)) return false;
  const u32 c = rest % v1, t = rest / v1;
  const int z = plane * f2, y = row * f3;
  window.planes = smaller(f2, v2 - z);
  window.rows = smaller(f3, v3 - y);
  window.x = group * per_thread;
  window.width = width;
  window.first = ((((i64)t * n1 + c) * n2 + z) * n3 + y) * n4 + (i64)window.x * f4;
  window.parent = ((((i64)t * v1 + c) * depth + plane) * height + row) * width + window.x;
  return true;
}

// The rows of a box of a chunk, one after the other, as pixels from its first one: n3 rows of n4
// pixels are a plane, of which the box has `rows`.
struct Rows {
  i64 offset = 0;
  int line = 0;
  __device__ __forceinline__ void next(int rows, int n3, int n4) {
    offset += n4;
    if (++line == rows) {
      line = 0;
      offset += (i64)(n3 - rows) * n4;
    }
  }
};
