// Vectors of floats, as wide as the instruction set that this file is compiled for. The compiler's own vector types do
// the arithmetic (a * b + c is fused where the processor can), so nothing here is written twice.
//
// Kernel files are compiled once for each instruction set that gives them something. What they define lies in the
// namespace ANYCHIP_ISA, and they use no templates or inline functions of the standard library: the linker would keep one
// copy for all of them.
#pragma once

#include <stdint.h>

#include "anychip_cpu.h"

#if defined(__AVX512F__)
#define ANYCHIP_LANES 16
#elif defined(__AVX2__)
#define ANYCHIP_LANES 8
#else
#define ANYCHIP_LANES 4
#endif

namespace ANYCHIP_ISA {

constexpr int64_t LANES = ANYCHIP_LANES;

typedef float Vec __attribute__((vector_size(4 * ANYCHIP_LANES)));
typedef float LooseVec __attribute__((vector_size(4 * ANYCHIP_LANES), aligned(4), may_alias));

static inline Vec load(const float* p) { return *reinterpret_cast<const LooseVec*>(p); }
static inline void store(float* p, Vec v) { *reinterpret_cast<LooseVec*>(p) = v; }
static inline Vec fill(float x) { return x - Vec{}; }

typedef int32_t Ints __attribute__((vector_size(4 * ANYCHIP_LANES)));
typedef uint32_t Bits __attribute__((vector_size(4 * ANYCHIP_LANES)));

static inline Vec larger(Vec a, Vec b) { return a > b ? a : b; }
static inline Ints larger(Ints a, Ints b) { return a > b ? a : b; }

// Shuffles, of one row or of two, a and b, as constants: lanes that are set one by one cost the compiler seconds a kernel.
template <int32_t... LANE>
struct Lanes {
    // Blocks of WIDTH lanes: a0 b1 a2 b3 ..., which moves none, and a1 b0 a3 b2 ...
    template <int32_t WIDTH>
    static constexpr Ints OWN = {(LANE / WIDTH % 2 ? ANYCHIP_LANES : 0) + LANE...};
    template <int32_t WIDTH>
    static constexpr Ints OTHER = {(LANE / WIDTH % 2 ? ANYCHIP_LANES - WIDTH : WIDTH) + LANE...};
    // a0 b0 a2 b2 ..., and a1 b1 a3 b3 ...
    template <int32_t WIDTH>
    static constexpr Ints LOW = {(LANE / WIDTH % 2 ? ANYCHIP_LANES - WIDTH : 0) + LANE...};
    template <int32_t WIDTH>
    static constexpr Ints HIGH = {(LANE / WIDTH % 2 ? ANYCHIP_LANES : WIDTH) + LANE...};
    // a's lanes from BY on, then the first ones.
    template <int32_t BY>
    static constexpr Ints ROTATED = {(LANE + BY) % ANYCHIP_LANES...};
};
#if ANYCHIP_LANES == 16
typedef Lanes<0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15> Shuffle;
#elif ANYCHIP_LANES == 8
typedef Lanes<0, 1, 2, 3, 4, 5, 6, 7> Shuffle;
#else
typedef Lanes<0, 1, 2, 3> Shuffle;
#endif

// Pairs first, so that the sum's shape does not hang on how the compiler orders it.
template <int32_t HALF = ANYCHIP_LANES / 2, typename Numbers>
static inline auto sum(Numbers v) {
    if constexpr (HALF == 0)
        return v[0];
    else
        return sum<HALF / 2>(v + __builtin_shuffle(v, Shuffle::ROTATED<HALF>));
}

// Lane j of the result is row j's lanes joined, as by adding them: neighbours are joined, and rows put side by side, until
// each row is one lane wide. `rows` is overwritten.
template <int32_t WIDTH = 1, typename Join>
static inline Vec joined(Vec rows[LANES], const Join& join) {
    if constexpr (WIDTH < LANES) {
#pragma GCC unroll 8
        for (int64_t i = 0; i < LANES / (2 * WIDTH); ++i)
            rows[i] = join(__builtin_shuffle(rows[2 * i], rows[2 * i + 1], Shuffle::OWN<WIDTH>),
                           __builtin_shuffle(rows[2 * i], rows[2 * i + 1], Shuffle::OTHER<WIDTH>));
        return joined<2 * WIDTH>(rows, join);
    }
    return rows[0];
}

static inline Vec sums(Vec rows[LANES]) {
    return joined(rows, [](Vec a, Vec b) { return a + b; });
}
static inline Vec maxima(Vec rows[LANES]) {
    return joined(rows, [](Vec a, Vec b) { return larger(a, b); });
}

// v, computed or loaded here, once. The compiler would else load it again for each use; or move a sum into one of the
// branches behind it, away from its product, and no longer fuse the two, in one variant of a kernel and not in another.
static inline Vec settled(Vec v) {
#if defined(__AVX512F__)
    asm volatile("" : "+v"(v));
#elif defined(__SSE2__)
    asm volatile("" : "+x"(v));
#elif defined(__aarch64__)
    asm volatile("" : "+w"(v));
#endif
    return v;
}

// Whether a lane of a comparison's result holds.
static inline bool any(Ints lanes) {
    typedef int64_t Words __attribute__((vector_size(4 * ANYCHIP_LANES)));
    const Words words = (Words)lanes;
    int64_t found = 0;
    for (int64_t i = 0; i < LANES / 2; ++i) found |= words[i];
    return found != 0;
}

template <int32_t HALF = ANYCHIP_LANES / 2, typename Numbers>
static inline auto largest(Numbers v) {
    if constexpr (HALF == 0)
        return v[0];
    else
        return largest<HALF / 2>(larger(__builtin_shuffle(v, Shuffle::ROTATED<HALF>), v));
}

// e^x, to two units in the last place: x = n ln 2 + r, a polynomial for e^r (Cephes' expf), n into the exponent. Below
// -87 it is 0, above 88 infinite; NaN stays NaN.
static inline Vec exponential(Vec x) {
    const Vec magic = fill(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number, in the low bits
    const Vec bounded = x > 88.0f ? fill(88.0f) : x;
    const Vec shifted = bounded * 1.44269504088896341f + magic, n = shifted - magic;
    const Vec r = bounded - n * 0.693359375f - n * -2.12194440e-4f;
    Vec p = fill(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const Bits exponent = (Bits)shifted << 23;  // the magic number's bits are shifted out
    const Vec result = (Vec)((Bits)p + exponent);
    return x < -87.0f ? Vec{} : x > 88.0f ? fill(__builtin_inff()) : result;
}

static inline Vec load_part(const float* p, int64_t count) {
    if (count >= LANES) return load(p);
    Vec v = {};
    for (int64_t i = 0; i < count; ++i) v[i] = p[i];
    return v;
}

static inline void store_part(float* p, Vec v, int64_t count) {
    if (count >= LANES) {
        store(p, v);
        return;
    }
    for (int64_t i = 0; i < count; ++i) p[i] = v[i];
}

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace ANYCHIP_ISA
