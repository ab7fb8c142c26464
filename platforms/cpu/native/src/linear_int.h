// Dot products of bytes: four of the weight, without sign, by four of x, with sign, into a lane of 32 bits.
#pragma once

#ifdef ANYCHIP_X86
#include <immintrin.h>
#endif

#include "panels.h"

namespace ANYCHIP_ISA {

typedef uint32_t LooseBits __attribute__((vector_size(4 * ANYCHIP_LANES), aligned(1), may_alias));
typedef uint8_t Bytes __attribute__((vector_size(ANYCHIP_LANES)));

static inline Ints fill(int32_t x) { return x - Ints{}; }

#ifdef __AVX512VNNI__

typedef Bits WeightBytes;
typedef Ints InputBytes;

static inline WeightBytes weight_bytes(Bits words) { return words; }
static inline InputBytes input_bytes(int32_t word) { return fill(word); }

static inline Ints dot(Ints sum, WeightBytes w, InputBytes x) {
    return (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, (__m512i)x);
}

#else

typedef int16_t Shorts __attribute__((vector_size(4 * ANYCHIP_LANES)));

// Every second byte, as 16-bit numbers: their products are exact, and added in pairs.
struct WeightBytes {
    Shorts even, odd;
};
typedef WeightBytes InputBytes;

static inline WeightBytes weight_bytes(Bits words) {
    return {(Shorts)(words & 0x00ff00ffu), (Shorts)(words >> 8 & 0x00ff00ffu)};
}

static inline InputBytes input_bytes(int32_t word) {
    const Bits words = (Bits)fill(word);
    return {(Shorts)(words << 8) >> 8, (Shorts)words >> 8};
}

// In each lane of 32 bits the sum of two products.
static inline Ints products(Shorts a, Shorts b) {
#if defined(__AVX512BW__)
    return (Ints)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (Ints)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
    return (Ints)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
    const Ints low_a = (Ints)((Bits)a << 16) >> 16, low_b = (Ints)((Bits)b << 16) >> 16;
    return low_a * low_b + ((Ints)a >> 16) * ((Ints)b >> 16);
#endif
}

static inline Ints dot(Ints sum, WeightBytes w, InputBytes x) {
    return sum + products(w.even, x.even) + products(w.odd, x.odd);
}

#endif

}  // namespace ANYCHIP_ISA
