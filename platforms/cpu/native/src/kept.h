// Vectors of K and V in a row of a page: float, Bfloat16 or Float16, or whole numbers of 8 bits with a scale a vector.
#pragma once

#include "halves.h"

namespace ANYCHIP_ISA {

struct Int8 {
    int8_t number;
};

typedef int8_t Bytes __attribute__((vector_size(ANYCHIP_LANES)));

template <typename Kept>
constexpr bool SCALED = false;
template <>
inline constexpr bool SCALED<Int8> = true;

// Spelled out where a compiler would take the bytes one by one.
static inline Vec widened(Bytes b) {
#if defined(__AVX512F__)
    return (Vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32((__m128i)b));
#elif defined(__AVX2__)
    int64_t bits;
    __builtin_memcpy(&bits, &b, sizeof bits);
    return (Vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(bits)));
#else
    return __builtin_convertvector(__builtin_convertvector(b, Ints), Vec);
#endif
}
static inline float widened(Int8 x) { return x.number; }

static inline Vec load(const Int8* p) {
    Bytes bytes;
    __builtin_memcpy(&bytes, p, sizeof bytes);
    return widened(bytes);
}

static inline Vec load_part(const Int8* p, int64_t count) {
    if (count >= LANES) return load(p);
    Bytes bytes = {};
    for (int64_t i = 0; i < count; ++i) bytes[i] = p[i].number;
    return widened(bytes);
}

// To the nearest whole numbers, ties to even, of at most 127.
static inline void store_part(Int8* p, Vec v, int64_t count) {
    v = v > 127.0f ? fill(127.0f) : v < -127.0f ? fill(-127.0f) : v;
    const Ints bits = (Ints)(v + 12582912.0f);  // 1.5 * 2^23: the whole number is in the low bits
    const Bytes bytes = __builtin_convertvector(bits, Bytes);
    if (count >= LANES)
        __builtin_memcpy(p, &bytes, sizeof bytes);
    else
        for (int64_t i = 0; i < count; ++i) p[i].number = bytes[i];
}

// The largest magnitude of x over 127; NaN where a number is not finite.
static inline float scale_of(const float* x, int64_t size) {
    Vec most = {}, spoiled = {};
    for (int64_t i = 0; i < size; i += LANES) {
        const Vec v = load_part(x + i, size - i);
        most = larger(v < 0.0f ? -v : v, most);
        spoiled += v * 0.0f;
    }
    return largest(most) / 127.0f + sum(spoiled);
}

// x into row `row` of the pages.
template <typename Kept>
static inline void keep(const float* x, int64_t size, int64_t row, Kept* pages, float* scales) {
    Kept* to = pages + row * size;
    float scale = 1.0f;
    if constexpr (SCALED<Kept>) {
        scales[row] = scale_of(x, size);
        if (scales[row] != 0.0f) scale = scales[row];
    }
    for (int64_t i = 0; i < size; i += LANES) {
        const Vec v = load_part(x + i, size - i);
        store_part(to + i, SCALED<Kept> ? v / scale : v, size - i);
    }
}

// Calls body with a number of the kind that `kept` names, for its type.
template <typename Body>
static inline void of_kind(int64_t kept, const Body& body) {
    switch (kept) {
        case ANYCHIP_BFLOAT16: return body(Bfloat16{});
        case ANYCHIP_FLOAT16: return body(Float16{});
        case ANYCHIP_INT8: return body(Int8{});
        default: return body(float{});
    }
}

}  // namespace ANYCHIP_ISA
