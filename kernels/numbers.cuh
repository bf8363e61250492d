// The float types of logits and gradients: 32-bit, and two of 16 bits that are only ever stored.
//
// No header of CUDA's is included, so that NVRTC needs no toolkit beside it, and a host compiler
// none at all. On the host the 16-bit conversions are spelled out; on the device they are one
// instruction where there is one. Rounding is to nearest, ties to even.

#pragma once

#ifdef __CUDACC__
#define EDGEWF_BOTH __host__ __device__ __forceinline__
#else
#include <cassert>
#include <cmath>
#include <cstdint>
#include <cstring>
#define EDGEWF_BOTH inline
#endif

struct Half {
    unsigned short bits;
};

struct BFloat16 {
    unsigned short bits;
};

EDGEWF_BOTH float float_of_bits(unsigned bits) {
#ifdef __CUDA_ARCH__
    return __uint_as_float(bits);
#else
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
#endif
}

EDGEWF_BOTH unsigned bits_of_float(float x) {
#ifdef __CUDA_ARCH__
    return __float_as_uint(x);
#else
    unsigned bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
#endif
}

EDGEWF_BOTH float to_float(float x) { return x; }

EDGEWF_BOTH float to_float(BFloat16 x) { return float_of_bits(unsigned(x.bits) << 16); }

EDGEWF_BOTH float to_float(Half x) {
#ifdef __CUDA_ARCH__
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
#else
    const unsigned magnitude = (x.bits & 0x7fffu) << 13;  // exponent and fraction, in float's place
    const bool special = (x.bits & 0x7c00u) == 0x7c00u;   // infinity or NaN
    // The exponents' biases, 127 and 15, differ by 112; multiplying also sets subnormals right.
    const float y =
        special ? float_of_bits(magnitude | 0x7f800000u) : float_of_bits(magnitude) * 0x1p112f;
    return float_of_bits(bits_of_float(y) | (x.bits & 0x8000u) << 16);
#endif
}

EDGEWF_BOTH void from_float(float x, float& y) { y = x; }

EDGEWF_BOTH void from_float(float x, BFloat16& y) {
    const unsigned bits = bits_of_float(x);
    const unsigned rounded = bits + 0x7fffu + (bits >> 16 & 1u);
    y.bits = (unsigned short)((x == x ? rounded : 0x7fc00000u) >> 16);
}

EDGEWF_BOTH void from_float(float x, Half& y) {
#ifdef __CUDA_ARCH__
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
#else
    const unsigned sign = bits_of_float(x) >> 16 & 0x8000u;
    const unsigned bits = bits_of_float(x) & 0x7fffffffu;
    unsigned half;
    if (bits > 0x7f800000u) {
        half = 0x7e00u;  // NaN
    } else if (bits >= 0x477ff000u) {
        half = 0x7c00u;  // 65520 and more round to infinity
    } else if (bits < 0x38800000u) {
        // Below 2^-14: adding 1/2 leaves the subnormal's fraction, rounded, in the last bits.
        half = bits_of_float(float_of_bits(bits) + 0.5f) - 0x3f000000u;
    } else {
        half = (bits - 0x38000000u + 0xfffu + (bits >> 13 & 1u)) >> 13;
    }
    y.bits = (unsigned short)(sign | half);
#endif
}

// COUNT 32-bit words, 1, 2 or 4, in one instruction; `at` is a multiple of their size. Written in
// PTX because the compiler does not always keep a structure of several numbers together.
template <int COUNT>
EDGEWF_BOTH void load_words(const void* at, unsigned* word) {
#ifdef __CUDA_ARCH__
    const auto from = __cvta_generic_to_global(at);
    if constexpr (COUNT == 4) {
        asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(word[0]), "=r"(word[1]), "=r"(word[2]), "=r"(word[3])
                     : "l"(from));
    } else if constexpr (COUNT == 2) {
        asm volatile("ld.global.v2.u32 {%0, %1}, [%2];" : "=r"(word[0]), "=r"(word[1]) : "l"(from));
    } else {
        asm volatile("ld.global.u32 %0, [%1];" : "=r"(word[0]) : "l"(from));
    }
#else
    assert(reinterpret_cast<std::uintptr_t>(at) % (4 * COUNT) == 0);  // the device would trap
    memcpy(word, at, 4 * COUNT);
#endif
}

template <int COUNT>
EDGEWF_BOTH void store_words(const unsigned* word, void* at) {
#ifdef __CUDA_ARCH__
    const auto to = __cvta_generic_to_global(at);
    if constexpr (COUNT == 4) {
        asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(word[0]),
                     "r"(word[1]), "r"(word[2]), "r"(word[3])
                     : "memory");
    } else if constexpr (COUNT == 2) {
        asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(word[0]), "r"(word[1])
                     : "memory");
    } else {
        asm volatile("st.global.u32 [%0], %1;" ::"l"(to), "r"(word[0]) : "memory");
    }
#else
    assert(reinterpret_cast<std::uintptr_t>(at) % (4 * COUNT) == 0);
    memcpy(at, word, 4 * COUNT);
#endif
}

// How floats are laid out in 32-bit words.
EDGEWF_BOTH void unpack(unsigned word, float (&x)[1], float) { x[0] = float_of_bits(word); }

EDGEWF_BOTH unsigned pack(const float (&x)[1], float) { return bits_of_float(x[0]); }

template <class T>
EDGEWF_BOTH void unpack(unsigned word, float (&x)[2], T) {
    x[0] = to_float(T{(unsigned short)(word & 0xffffu)});
    x[1] = to_float(T{(unsigned short)(word >> 16)});
}

template <class T>
EDGEWF_BOTH unsigned pack(const float (&x)[2], T) {
    T low, high;
    from_float(x[0], low);
    from_float(x[1], high);
    return low.bits | unsigned(high.bits) << 16;
}

// Read elements k to k + N of a row [K] as floats, `missing` for those outside of it. `aligned`
// says that row + k is a multiple of 16 bytes, or of N elements where these are fewer.
template <int N, class T>
EDGEWF_BOTH void load(const T* row, int k, int K, bool aligned, float missing, float (&x)[N]) {
    constexpr int PER_WORD = 4 / sizeof(T);
    constexpr int WORDS = N / PER_WORD;
    constexpr int STEP = WORDS < 4 ? WORDS : 4;
    if (aligned && k >= 0 && k + N <= K) {
        unsigned word[WORDS];
#pragma unroll
        for (int w = 0; w < WORDS; w += STEP) load_words<STEP>(row + k + w * PER_WORD, word + w);
#pragma unroll
        for (int w = 0; w < WORDS; ++w) {
            float some[PER_WORD];
            unpack(word[w], some, T{});
#pragma unroll
            for (int i = 0; i < PER_WORD; ++i) x[w * PER_WORD + i] = some[i];
        }
    } else {
#pragma unroll
        for (int i = 0; i < N; ++i) {
            x[i] = k + i >= 0 && k + i < K ? to_float(row[k + i]) : missing;
        }
    }
}

// The way back; elements outside of the row are not written.
template <int N, class T>
EDGEWF_BOTH void store(const float (&x)[N], T* row, int k, int K, bool aligned) {
    constexpr int PER_WORD = 4 / sizeof(T);
    constexpr int WORDS = N / PER_WORD;
    constexpr int STEP = WORDS < 4 ? WORDS : 4;
    if (aligned && k >= 0 && k + N <= K) {
        unsigned word[WORDS];
#pragma unroll
        for (int w = 0; w < WORDS; ++w) {
            float some[PER_WORD];
#pragma unroll
            for (int i = 0; i < PER_WORD; ++i) some[i] = x[w * PER_WORD + i];
            word[w] = pack(some, T{});
        }
#pragma unroll
        for (int w = 0; w < WORDS; w += STEP) store_words<STEP>(word + w, row + k + w * PER_WORD);
    } else {
#pragma unroll
        for (int i = 0; i < N; ++i) {
            if (k + i >= 0 && k + i < K) from_float(x[i], row[k + i]);
        }
    }
}
