// Dot products of bytes: four of the weight, without sign, by four of x, with sign, into a lane of 32 bits.
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

#include "halves.h"
#include "panels.h"

namespace ANYCHIP_ISA {

typedef uint32_t LooseBits __attribute__((vector_size(4 * ANYCHIP_LANES), aligned(1), may_alias));
typedef uint8_t Bytes __attribute__((vector_size(ANYCHIP_LANES)));

static inline Ints fill(int32_t x) { return x - Ints{}; }

// What turns the weight's bytes into numbers with sign, less by 128, where the processor takes only those.
#if defined(__ARM_FEATURE_DOTPROD) && !defined(__ARM_FEATURE_MATMUL_INT8)
constexpr uint32_t FLIP = 0x80808080u;
#else
constexpr uint32_t FLIP = 0;
#endif

#if defined(__AVX512VNNI__) || defined(ANYCHIP_AVX_VNNI) || defined(__ARM_FEATURE_DOTPROD)

typedef Bits WeightBytes;
typedef Ints InputBytes;

static inline WeightBytes weight_bytes(Bits words) { return words; }
static inline InputBytes input_bytes(int32_t word) { return fill(word); }

static inline Ints dot(Ints sum, WeightBytes w, InputBytes x) {
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
#elif defined(__aarch64__)
    const int16x8_t left = (int16x8_t)a, right = (int16x8_t)b;
    return (Ints)vpaddq_s32(vmull_s16(vget_low_s16(left), vget_low_s16(right)), vmull_high_s16(left, right));
#else
    const Ints low_a = (Ints)((Bits)a << 16) >> 16, low_b = (Ints)((Bits)b << 16) >> 16;
    return low_a * low_b + ((Ints)a >> 16) * ((Ints)b >> 16);
#endif
}

static inline Ints dot(Ints sum, WeightBytes w, InputBytes x) {
    return sum + products(w.even, x.even) + products(w.odd, x.odd);
}

#endif

// What weights of so many bits are shifted by, so that they have no sign.
template <int BITS>
constexpr uint32_t SHIFT = BITS == 4 ? 8 : FLIP ? 0 : 128;

// What the sum of a group's products starts from, by that of x. Without sign, since what is made of NaN may wrap.
template <int BITS>
static inline int32_t start_of(int32_t sum) {
    return static_cast<int32_t>(0u - SHIFT<BITS> * static_cast<uint32_t>(sum));
}

// The same of weights under 64, of which two products together fit 16 bits.
#if !defined(__AVX512VNNI__) && !defined(ANYCHIP_AVX_VNNI) && defined(__AVX2__)

typedef Ints FewBits;

static inline FewBits few_bits(int32_t word) { return fill(word); }

static inline Ints dot_few_bits(Ints sum, Bits w, FewBits x) {
    const Shorts ones = (Shorts)fill(0x00010001);
#if defined(__AVX512BW__)
    return sum + products((Shorts)_mm512_maddubs_epi16((__m512i)w, (__m512i)x), ones);
#else
    return sum + products((Shorts)_mm256_maddubs_epi16((__m256i)w, (__m256i)x), ones);
#endif
}

#else

typedef InputBytes FewBits;

static inline FewBits few_bits(int32_t word) { return input_bytes(word); }
static inline Ints dot_few_bits(Ints sum, Bits w, FewBits x) { return dot(sum, weight_bytes(w), x); }

#endif

constexpr int64_t STEP = 8;           // inputs that rows and groups are whole multiples of
constexpr float MAGIC = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number, in the low bits
constexpr float TINY = 1e-35f;               // less than this is zero: its inverse would not be finite

// Rows of x as whole numbers. `scales`, and `sums` of these numbers: [groups, rows]; `bytes`: [rows, stride].
struct Inputs {
    float* scales;
    int32_t* sums;
    int8_t* bytes;
    int64_t stride, rows, groups, step;
    int64_t place(int64_t row, int64_t g) const { return g * rows + row; }
};

// Tiles are large, so the kind of y is looked at when they run.
enum class Kind { float32, bfloat16, float16 };
template <typename Number>
constexpr Kind KIND = Kind::float32;
template <>
constexpr Kind KIND<Bfloat16> = Kind::bfloat16;
template <>
constexpr Kind KIND<Float16> = Kind::float16;

struct Panel {
    const uint8_t* bytes;
    const uint16_t* scales;  // [groups, WIDTH], or [WIDTH]
    const float* bias;
    int64_t count, inputs;  // `count`: the panel's outputs that exist
    Kind kind;              // of y
};

// y[at...] = v, which is y's own kind of number.
static inline void store_as(Kind kind, void* y, int64_t at, Vec v, int64_t count) {
    if (kind == Kind::float32)
        store_part(static_cast<float*>(y) + at, v, count);
    else if (kind == Kind::bfloat16)
        store_part(static_cast<Bfloat16*>(y) + at, v, count);
    else
        store_part(static_cast<Float16*>(y) + at, v, count);
}

static inline Vec scale_vector(const uint16_t* p) {
    return load(reinterpret_cast<const Bfloat16*>(p));
}

template <bool GROUPED>
static inline Vec group_scale(const Panel& panel, int64_t g, int v) {
    return GROUPED ? scale_vector(panel.scales + g * WIDTH + v * LANES) : Vec{};
}

// A group's whole numbers, scaled, added to the groups before.
template <bool GROUPED>
static inline Vec add_group(Vec sum, Ints whole, float factor, Vec scale) {
    const Vec part = __builtin_convertvector(whole, Vec);
    return sum + part * (GROUPED ? factor * scale : fill(factor));
}

// What is left to do for `rows` rows of a panel's outputs, whose sums these are.
static inline void finish(const Panel& panel, bool grouped, const Vec (*sums)[VECTORS], int64_t rows, void* y, int64_t at,
                          int64_t y_stride) {
    for (int v = 0; v < VECTORS && panel.count > v * LANES; ++v) {
        const int64_t first = v * LANES, count = panel.count - first;
        const Vec scale = grouped ? fill(1.0f) : scale_vector(panel.scales + first);
        const Vec bias = panel.bias ? load_part(panel.bias + first, count) : Vec{};
        for (int64_t r = 0; r < rows; ++r)
            store_as(panel.kind, y, at + r * y_stride + first, settled(sums[r][v] * scale + bias), count);
    }
}

}  // namespace ANYCHIP_ISA
