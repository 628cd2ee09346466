// How does CUDA C++ run on a CPU? The words that the kernels use, and a scheduler of fibres.
//
// Each CUDA thread is a fibre. Thread blocks run one after the other; within one, a fibre runs until
// it is done or meets a barrier: __syncthreads, or a warp's ballot, shuffle, match or
// __syncwarp. A barrier lets go once all fibres that it waits for have come, and complains where
// they never will, or where lanes of a warp meet at different ones. Lanes run in order or, to
// show what only works in that order, reversed. It finds wrong arithmetic, wrong indices and
// barriers that are missing between phases; it finds no races within one.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <tuple>
#include <utility>
#include <vector>

#define __global__ static
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(threads)

struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) ulonglong2 { unsigned long long x, y; };
struct dim3 { unsigned x, y, z; };

static dim3 threadIdx, blockIdx, blockDim, gridDim;

static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
  return {x, y, z, w};
}

namespace shim {

#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
// ucontext asks the kernel for the signal mask at every switch; this does not.
extern "C" void shim_switch(void** from, void* to);
asm(R"(
.pushsection .text
.type shim_switch, @function
.local shim_switch
shim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.popsection
)");
struct Context {
  void* top = nullptr;
  void start(char* stack, size_t size, void (*entry)()) {
    void** end = (void**)((uintptr_t)(stack + size) & ~(uintptr_t)15);
    *--end = nullptr;  // where entry would return to
    *--end = (void*)entry;
    for (int i = 0; i < 6; i++) *--end = nullptr;
    top = end;
  }
  static void change(Context& from, Context& to) { shim_switch(&from.top, to.top); }
};
#else
}  // namespace shim
#include <ucontext.h>
namespace shim {
struct Context {
  ucontext_t state;
  void start(char* stack, size_t size, void (*entry)()) {
    getcontext(&state);
    state.uc_stack.ss_sp = stack;
    state.uc_stack.ss_size = size;
    state.uc_link = nullptr;
    makecontext(&state, entry, 0);
  }
  static void change(Context& from, Context& to) { swapcontext(&from.state, &to.state); }
};
#endif

constexpr size_t STACK = 256 << 10;  // touched pages count
constexpr unsigned LANES = 32;

enum State { READY, AT_WARP, AT_BLOCK, DONE };
enum Barrier { BALLOT, SHUFFLE, SHUFFLE_UP, MATCH, SYNC };

struct Fibre {
  Context context;
  char* stack = nullptr;
  State state = DONE;
  Barrier barrier;       // of the warp, that it waits at
  unsigned parity = 0;   // of the warp's barriers that it passed
  uint64_t given[2];     // to the other lanes, at the last barrier and the one before
  dim3 index;
};

static Context scheduler;
static std::vector<Fibre*> fibres;
static unsigned current;
static const char* trouble;
static void (*body)(void* const*);
static void* const* arguments;

static void give_way(State state) {
  Fibre& fibre = *fibres[current];
  fibre.state = state;
  Context::change(fibre.context, scheduler);
}

static void entry() {
  for (;;) {  // a fibre serves one CUDA thread after the other
    body(arguments);
    give_way(DONE);
  }
}

static void resume(unsigned i) {
  current = i;
  threadIdx = fibres[i]->index;
  Context::change(scheduler, fibres[i]->context);
}

// Gives `value` to the lanes of this warp, waits for theirs; returns how to find them.
static unsigned meet(Barrier barrier, unsigned mask, uint64_t value) {
  if (mask != 0xffffffffu) trouble = "a barrier for less than the whole warp";
  Fibre& fibre = *fibres[current];
  const unsigned parity = fibre.parity ^= 1;
  fibre.given[parity] = value;
  fibre.barrier = barrier;
  give_way(AT_WARP);
  return parity;
}

static uint64_t given(unsigned lane, unsigned parity) {
  return fibres[current / LANES * LANES + lane % LANES]->given[parity];
}

// Lets lanes [first, last) go on where all of them wait at one barrier of the warp.
static bool release_warp(unsigned first, unsigned last) {
  for (unsigned i = first; i < last; i++) {
    if (fibres[i]->state != AT_WARP) return false;
  }
  for (unsigned i = first; i < last; i++) {
    if (fibres[i]->barrier != fibres[first]->barrier) trouble = "lanes at different barriers";
    fibres[i]->state = READY;
  }
  return true;
}

static void run_block(unsigned count, bool reversed) {
  for (unsigned i = 0; i < count; i++) {
    fibres[i]->state = READY;
    fibres[i]->parity = 0;
    fibres[i]->index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
  }
  for (;;) {
    for (unsigned w = 0; w < count / LANES; w++) {
      const unsigned first = (reversed ? count / LANES - 1 - w : w) * LANES;
      do {
        for (unsigned l = 0; l < LANES; l++) {
          const unsigned i = first + (reversed ? LANES - 1 - l : l);
          if (fibres[i]->state == READY) resume(i);
          if (trouble) return;
        }
      } while (release_warp(first, first + LANES));
    }
    unsigned done = 0, waiting = 0;
    for (unsigned i = 0; i < count; i++) {
      done += fibres[i]->state == DONE;
      waiting += fibres[i]->state == AT_BLOCK;
    }
    if (done == count) return;
    if (done + waiting < count) {
      trouble = "lanes wait at a barrier that others never reach";
      return;
    }
    for (unsigned i = 0; i < count; i++)
      if (fibres[i]->state == AT_BLOCK) fibres[i]->state = READY;
  }
}

template <typename... A, size_t... I>
static void call(void (*kernel)(A...), void* const* args, std::index_sequence<I...>) {
  kernel(*(A*)args[I]...);
}

template <typename... A> static std::vector<unsigned> sizes_of(void (*)(A...)) {
  return {(unsigned)sizeof(A)...};
}

template <auto KERNEL> static void call_it(void* const* args) {
  [&]<typename... A>(void (*kernel)(A...)) {
    call(kernel, args, std::index_sequence_for<A...>());
  }(KERNEL);
}

struct Kernel {
  const char* name;
  void (*body)(void* const*);
  std::vector<unsigned> sizes;  // of the parameters
};

// Runs a kernel to its end; returns what is wrong, or null. Calls of several threads take turns.
static const char* launch(const std::vector<Kernel>& kernels, const char* name,
                          const unsigned* grid, const unsigned* block, void* const* args,
                          const unsigned* sizes, unsigned count, bool reversed) {
  static std::mutex one_at_a_time;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  const Kernel* kernel = nullptr;
  for (const Kernel& k : kernels)
    if (!strcmp(k.name, name)) kernel = &k;
  if (!kernel) return "no such kernel";
  if (std::vector<unsigned>(sizes, sizes + count) != kernel->sizes)
    return "arguments of other sizes than the parameters";
  const unsigned threads = block[0] * block[1] * block[2];
  if (threads == 0 || threads > 1024 || threads % LANES) return "not whole warps, or too many";
  if (!grid[0] || !grid[1] || !grid[2] || grid[1] > 65535 || grid[2] > 65535)
    return "a grid that no device takes";
  while (fibres.size() < threads) {
    Fibre* fibre = new Fibre;
    fibre->stack = (char*)malloc(STACK);
    fibre->context.start(fibre->stack, STACK, entry);
    fibres.push_back(fibre);
  }
  trouble = nullptr;
  body = kernel->body;
  arguments = args;
  gridDim = {grid[0], grid[1], grid[2]};
  blockDim = {block[0], block[1], block[2]};
  for (unsigned z = 0; z < grid[2]; z++)
    for (unsigned y = 0; y < grid[1]; y++)
      for (unsigned x = 0; x < grid[0] && !trouble; x++) {
        blockIdx = {x, y, z};
        run_block(threads, reversed);
      }
  if (trouble) {  // fibres that stand in the middle of a kernel are of no more use
    for (Fibre* fibre : fibres) {
      free(fibre->stack);
      delete fibre;
    }
    fibres.clear();
  }
  return trouble;
}

}  // namespace shim

static inline void __syncthreads() { shim::give_way(shim::AT_BLOCK); }
static inline void __syncwarp(unsigned mask = 0xffffffffu) { shim::meet(shim::SYNC, mask, 0); }

static inline unsigned __ballot_sync(unsigned mask, int vote) {
  const unsigned parity = shim::meet(shim::BALLOT, mask, vote != 0);
  unsigned votes = 0;
  for (unsigned lane = 0; lane < shim::LANES; lane++)
    votes |= (unsigned)shim::given(lane, parity) << lane;
  return votes;
}

template <typename T> static inline T shim_value(uint64_t bits) {
  T value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

template <typename T> static inline T __shfl_sync(unsigned mask, T value, int lane) {
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  const unsigned parity = shim::meet(shim::SHUFFLE, mask, bits);
  return shim_value<T>(shim::given(lane, parity));
}

template <typename T> static inline T __shfl_up_sync(unsigned mask, T value, unsigned delta) {
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  const unsigned parity = shim::meet(shim::SHUFFLE_UP, mask, bits);
  const unsigned lane = shim::current % shim::LANES;
  return lane < delta ? value : shim_value<T>(shim::given(lane - delta, parity));
}

static inline unsigned __match_any_sync(unsigned mask, unsigned value) {
  const unsigned parity = shim::meet(shim::MATCH, mask, value);
  unsigned alike = 0;
  for (unsigned lane = 0; lane < shim::LANES; lane++)
    alike |= (unsigned)(shim::given(lane, parity) == value) << lane;
  return alike;
}

static inline unsigned atomicAdd(unsigned* address, unsigned value) {
  const unsigned old = *address;
  *address += value;
  return old;
}

static inline int __ffs(unsigned x) { return __builtin_ffs((int)x); }
static inline int __clz(unsigned x) { return x ? __builtin_clz(x) : 32; }
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return (unsigned)(((unsigned long long)high << 32 | low) >> (shift & 31));
}
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const unsigned long long bytes = (unsigned long long)b << 32 | a;
  unsigned result = 0;
  for (int i = 0; i < 4; i++)
    result |= (unsigned)(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
  return result;
}
static inline float __int_as_float(int bits) { return shim_value<float>((unsigned)bits); }
static inline double __longlong_as_double(long long bits) { return shim_value<double>(bits); }
