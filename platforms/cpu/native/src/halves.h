// Numbers of 16 bits in memory, float32 in registers: load, store, load_part and store_part for both kinds.
#pragma once

#ifdef ANYCHIP_X86
#include <immintrin.h>
#endif
#ifdef __aarch64__
#include <arm_neon.h>
#endif

#include "simd.h"

namespace ANYCHIP_ISA {

struct Bfloat16 {
    uint16_t bits;
};
struct Float16 {
    uint16_t bits;
};

typedef uint16_t Halves __attribute__((vector_size(2 * ANYCHIP_LANES)));

static inline Vec widened(Halves h, Bfloat16) { return (Vec)(__builtin_convertvector(h, Bits) << 16); }

// Rounds to nearest, ties to even; NaN stays NaN.
static inline Halves narrowed(Vec v, Bfloat16) {
    const Bits bits = (Bits)v, rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return __builtin_convertvector(v == v ? rounded : (bits >> 16 | 0x40u), Halves);
}

static inline Vec widened(Halves h, Float16) {
#if defined(__AVX512F__)
    return (Vec)_mm512_cvtph_ps((__m256i)h);
#elif defined(__F16C__)
    return (Vec)_mm256_cvtph_ps((__m128i)h);
#elif defined(__aarch64__)
    return (Vec)vcvt_f32_f16((float16x4_t)h);
#else
    // The exponent moves by 112, which a product does for subnormal numbers too; infinities and NaN get the largest.
    const Bits wide = __builtin_convertvector(h, Bits), rest = (wide & 0x7fffu) << 13;
    const Vec value = (Vec)rest * 0x1p112f;
    const Bits special = (Bits)(rest >= (0x7c00u << 13)) & 0x7f800000u;
    return (Vec)((Bits)value | special | (wide & 0x8000u) << 16);
#endif
}

// Rounds to nearest, ties to even; what is too large becomes infinite.
static inline Halves narrowed(Vec v, Float16) {
#if defined(__AVX512F__)
    return (Halves)_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__F16C__)
    return (Halves)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__aarch64__)
    return (Halves)vcvt_f16_f32((float32x4_t)v);
#else
    const Bits bits = (Bits)v, sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
    // Below 2^-14 the unit is 2^-24: adding 1/2 rounds to it, and leaves it in the low bits.
    const Bits small = (Bits)((Vec)size + 0.5f) - 0x3f000000u;
    const Bits plain = (size - (112u << 23) + 0xfffu + (size >> 13 & 1u)) >> 13;
    const Bits finite = size < (113u << 23) ? small : plain < 0x7c00u ? plain : Bits{} + 0x7c00u;
    const Bits special = size > 0x7f800000u ? Bits{} + 0x7e00u : Bits{} + 0x7c00u;
    return __builtin_convertvector((size >= (143u << 23) ? special : finite) | sign, Halves);
#endif
}

static inline float widened(Bfloat16 h) {
    const uint32_t bits = static_cast<uint32_t>(h.bits) << 16;
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float widened(Float16 h) { return widened(Halves{h.bits}, h)[0]; }
static inline float widened(float x) { return x; }

template <typename Half>
static inline Vec load(const Half* p) {
    Halves halves;
    __builtin_memcpy(&halves, p, sizeof halves);
    return widened(halves, Half{});
}

template <typename Half>
static inline void store(Half* p, Vec v) {
    const Halves halves = narrowed(v, Half{});
    __builtin_memcpy(p, &halves, sizeof halves);
}

template <typename Half>
static inline Vec load_part(const Half* p, int64_t count) {
    if (count >= LANES) return load(p);
    Halves halves = {};
    for (int64_t i = 0; i < count; ++i) halves[i] = p[i].bits;
    return widened(halves, Half{});
}

template <typename Half>
static inline void store_part(Half* p, Vec v, int64_t count) {
    const Halves halves = narrowed(v, Half{});
    if (count >= LANES)
        __builtin_memcpy(p, &halves, sizeof halves);
    else
        for (int64_t i = 0; i < count; ++i) p[i].bits = halves[i];
}

// One number, by the same rules.
template <typename Number>
static inline void store_one(Number* p, float value) {
    store_part(p, fill(value), 1);
}

}  // namespace ANYCHIP_ISA
