// As much of CUDA's language as kernels/*.cu use, for a host compiler.
//
// A block's threads are fibres (ucontext) that run one after another from one synchronisation to
// the next, forwards or backwards: a result that depends on the order is a missing synchronisation.
// Threads that wait at different kinds of synchronisation, or have left while others wait, abort.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(threads, ...)

using std::isfinite;

struct Index {
    unsigned x, y, z;
};
inline Index threadIdx, blockIdx, blockDim, gridDim;

namespace host {

enum Wait { RUNNING, BLOCK, WARP, FINISHED };

struct Fibre {
    ucontext_t context;
    Wait wait;
    bool odd;           // alternates, so that nobody overwrites what a neighbour has yet to read
    uint32_t given[2];  // to the others, by `odd`
    std::vector<char> stack;
};

inline std::vector<Fibre> fibres;
inline ucontext_t scheduler;
inline int current;
inline void (*body)();

inline void run() {
    body();
    fibres[current].wait = FINISHED;
    swapcontext(&fibres[current].context, &scheduler);
}

inline void wait(Wait kind) {
    fibres[current].wait = kind;
    swapcontext(&fibres[current].context, &scheduler);
}

inline bool give_and_wait(uint32_t value, Wait kind) {
    Fibre& own = fibres[current];
    own.odd = !own.odd;
    own.given[own.odd] = value;
    wait(kind);
    return own.odd;
}

inline void check(int first, int last, const char* name) {
    for (int t = first; t < last; ++t) {
        if (fibres[t].wait != fibres[first].wait) {
            fprintf(stderr, "threads %d and %d of a %s diverge\n", first, t, name);
            abort();
        }
    }
}

inline void run_block(bool backwards) {
    const int threads = blockDim.x * blockDim.y;
    if (int(fibres.size()) < threads) fibres.resize(threads);
    for (int t = 0; t < threads; ++t) {
        Fibre& fibre = fibres[t];
        fibre.stack.resize(1 << 16);
        fibre.wait = RUNNING;
        fibre.odd = false;
        getcontext(&fibre.context);
        fibre.context.uc_stack.ss_sp = fibre.stack.data();
        fibre.context.uc_stack.ss_size = fibre.stack.size();
        fibre.context.uc_link = nullptr;
        makecontext(&fibre.context, run, 0);
    }
    for (bool any = true; any;) {
        any = false;
        for (int i = 0; i < threads; ++i) {
            current = backwards ? threads - 1 - i : i;
            if (fibres[current].wait == FINISHED) continue;
            any = true;
            threadIdx = {current % blockDim.x, current / blockDim.x, 0};
            swapcontext(&scheduler, &fibres[current].context);
        }
        bool block = false;
        for (int t = 0; t < threads; ++t) block |= fibres[t].wait == BLOCK;
        if (block) check(0, threads, "block");
        for (int w = 0; w < threads; w += 32) {
            bool warp = false;
            const int end = w + 32 < threads ? w + 32 : threads;
            for (int t = w; t < end; ++t) warp |= fibres[t].wait == WARP;
            if (warp) check(w, end, "warp");
        }
    }
}

// Call a kernel with its arguments as the driver gets them: packed, each aligned to its size.
template <class T>
T taken(const unsigned char*& from, const unsigned char* buffer) {
    const size_t at = (from - buffer + alignof(T) - 1) / alignof(T) * alignof(T);
    T value;
    memcpy(&value, buffer + at, sizeof value);
    from = buffer + at + sizeof value;
    return value;
}

inline const unsigned char* arguments;
inline size_t argument_bytes;

template <auto kernel>
struct Call;

template <class... A, void (*kernel)(A...)>
struct Call<kernel> {
    static void run() {
        const unsigned char* at = arguments;
        std::tuple<A...> values{taken<A>(at, arguments)...};
        if (size_t(at - arguments) != argument_bytes) {
            fprintf(stderr, "a kernel takes %zu bytes of arguments, not %zu\n",
                    size_t(at - arguments), argument_bytes);
            abort();
        }
        std::apply(kernel, values);
    }
};

inline void launch(void (*call)(), Index grid, Index block, bool backwards) {
    body = call;
    gridDim = grid;
    blockDim = block;
    const unsigned blocks = grid.x * grid.y;
    for (unsigned i = 0; i < blocks; ++i) {
        const unsigned b = backwards ? blocks - 1 - i : i;
        blockIdx = {b % grid.x, b / grid.x, 0};
        run_block(backwards);
    }
}

}  // namespace host

template <class T>
T __shfl_xor_sync(unsigned, T value, int offset) {
    static_assert(sizeof(T) == 4);
    uint32_t bits;
    memcpy(&bits, &value, 4);
    const bool odd = host::give_and_wait(bits, host::WARP);
    bits = host::fibres[host::current ^ offset].given[odd];
    memcpy(&value, &bits, 4);
    return value;
}

inline void __syncthreads() { host::wait(host::BLOCK); }

inline int __syncthreads_count(int predicate) {
    const bool odd = host::give_and_wait(predicate != 0, host::BLOCK);
    int count = 0;
    for (unsigned t = 0; t < blockDim.x * blockDim.y; ++t) count += host::fibres[t].given[odd];
    return count;
}

template <class T>
T atomicAdd(T* address, T value) {
    const T old = *address;
    *address += value;
    return old;
}
