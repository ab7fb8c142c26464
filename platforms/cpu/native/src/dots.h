// Dot products of bytes: four of a weight by four of x, which have a sign, added to a lane of 32 bits.
//
// WholeBytes is for weights of 8 bits, FewBits for weights under 64, of which products with x in pairs fit 16 bits.
// `Weight` and `Input` are what the bytes of a weight, and four of x for all lanes, are made before they are multiplied.
// The sums are exact, so all instruction sets have the same.
#pragma once

#ifdef ANYCHIP_X86
#include <immintrin.h>
#endif
#ifdef ANYCHIP_EMULATED
#include "emulated.h"
#endif
#ifdef __aarch64__
#include <arm_neon.h>
#endif

#include "simd.h"

namespace ANYCHIP_ISA {

static inline Ints fill(int32_t x) { return x - Ints{}; }

#if defined(__AVX512VNNI__) || defined(ANYCHIP_AVX_VNNI) || defined(__ARM_FEATURE_DOTPROD)

constexpr bool DOT_INSTRUCTION = true;

struct WholeBytes {
#if defined(__ARM_FEATURE_DOTPROD) && !defined(__ARM_FEATURE_MATMUL_INT8)
    static constexpr bool SIGNED = true;
#else
    static constexpr bool SIGNED = false;
#endif
    typedef Bits Weight;
    typedef Ints Input;

    static Weight weight(Bits words) { return words; }
    static Input input(int32_t word) { return fill(word); }

    static Ints dot(Ints sum, Weight w, Input x) {
#if defined(__AVX512VNNI__)
        return (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, (__m512i)x);
#elif defined(ANYCHIP_AVX_VNNI)
        return (Ints)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)w, (__m256i)x);
#elif defined(__ARM_FEATURE_MATMUL_INT8)
        return (Ints)vusdotq_s32((int32x4_t)sum, (uint8x16_t)w, (int8x16_t)x);
#else
        return (Ints)vdotq_s32((int32x4_t)sum, (int8x16_t)w, (int8x16_t)x);
#endif
    }
};

typedef WholeBytes FewBits;

#else

constexpr bool DOT_INSTRUCTION = false;

typedef int16_t Shorts __attribute__((vector_size(4 * ANYCHIP_LANES)));

// In each lane of 32 bits the sum of two products.
static inline Ints products(Shorts a, Shorts b) {
#if defined(__AVX512BW__)
    return (Ints)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (Ints)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
    return (Ints)_mm_madd_epi16((__m128i)a, (__m128i)b);
#elif defined(__aarch64__)
    const int16x8_t left = (int16x8_t)a, right = (int16x8_t)b;
    return (Ints)vpaddq_s32(vmull_s16(vget_low_s16(left), vget_low_s16(right)), vmull_high_s16(left, right));
#else
    const Ints low_a = (Ints)((Bits)a << 16) >> 16, low_b = (Ints)((Bits)b << 16) >> 16;
    return low_a * low_b + ((Ints)a >> 16) * ((Ints)b >> 16);
#endif
}

// Every second byte as a number of 16 bits.
struct Apart {
    static constexpr bool SIGNED = false;
    struct Weight {
        Shorts even, odd;
    };
    typedef Weight Input;

    static Weight weight(Bits words) { return {(Shorts)(words & 0x00ff00ffu), (Shorts)(words >> 8 & 0x00ff00ffu)}; }
    static Input input(int32_t word) {
        const Bits words = (Bits)fill(word);
        return {(Shorts)(words << 8) >> 8, (Shorts)words >> 8};
    }
    static Ints dot(Ints sum, Weight w, Input x) { return sum + products(w.even, x.even) + products(w.odd, x.odd); }
};

#ifdef __AVX2__

// Products in pairs, of bytes without sign by bytes with one; where they do not fit 16 bits they are cut off.
static inline Shorts pairs(Ints without, Ints with) {
#ifdef __AVX512BW__
    return (Shorts)_mm512_maddubs_epi16((__m512i)without, (__m512i)with);
#else
    return (Shorts)_mm256_maddubs_epi16((__m256i)without, (__m256i)with);
#endif
}

struct FewBits {
    static constexpr bool SIGNED = false;
    typedef Ints Weight;
    typedef Ints Input;

    static Weight weight(Bits words) { return (Ints)words; }
    static Input input(int32_t word) { return fill(word); }
    static Ints dot(Ints sum, Weight w, Input x) { return sum + products(pairs(w, x), (Shorts)fill(0x00010001)); }
};

#else
typedef Apart FewBits;
#endif

#if defined(__AVX2__) && !defined(__AVX512BW__)

// |x| by what of the weight's sign x leaves: both are at most 127, and two products fit. It needs a register less for a
// weight and two instructions fewer for an input.
struct WholeBytes {
    static constexpr bool SIGNED = true;
    typedef Ints Weight;
    struct Input {
        Ints number, size;
    };

    static Weight weight(Bits words) { return (Ints)words; }
    static Input input(int32_t word) {
        const Ints number = fill(word);
        return {number, (Ints)_mm256_abs_epi8((__m256i)number)};
    }
    static Ints dot(Ints sum, Weight w, Input x) {
        const Ints turned = (Ints)_mm256_sign_epi8((__m256i)w, (__m256i)x.number);
        return sum + products(pairs(x.size, turned), (Shorts)fill(0x00010001));
    }
};

#else
typedef Apart WholeBytes;
#endif

#endif

// For weights of so many bits.
template <int BITS>
struct DotsOf : FewBits {};
template <>
struct DotsOf<8> : WholeBytes {};

// Turns a weight's bytes, its numbers + 128, into the numbers where those are wanted.
constexpr uint32_t FLIP = WholeBytes::SIGNED ? 0x80808080u : 0;

}  // namespace ANYCHIP_ISA
