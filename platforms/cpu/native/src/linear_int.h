// What products with weights of 8 or 4 bits are made of.
#pragma once

#include "dots.h"
#include "halves.h"
#include "panels.h"

namespace ANYCHIP_ISA {

typedef uint32_t LooseBits __attribute__((vector_size(4 * ANYCHIP_LANES), aligned(1), may_alias));
typedef uint8_t Bytes __attribute__((vector_size(ANYCHIP_LANES)));

// What weights of so many bits are shifted by, so that they have no sign.
template <int BITS>
constexpr uint32_t SHIFT = BITS == 4 ? 8 : FLIP ? 0 : 128;

// What the sum of a group's products starts from, by that of x. Without sign, since what is made of NaN may wrap.
template <int BITS>
static inline int32_t start_of(int32_t sum) {
    return static_cast<int32_t>(0u - SHIFT<BITS> * static_cast<uint32_t>(sum));
}

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
