// Rows of x as whole numbers, and some of them by one panel of a weight of 8 or 4 bits.
//
// Weights are whole numbers times a scale for each output, or for each `group` of its inputs. They are kept without
// sign, shifted by 128 or 8; x is made whole numbers in -127..127 times a scale for each group of a row's inputs. The
// sum of (w + shift) * x is then off by shift times the sum of x, which does not depend on the output, so that is what
// a sum starts from. Sums of a group are whole numbers and exact, and groups are added in order, in float32.
#pragma once

#include "linear_int.h"

namespace ANYCHIP_ISA {

constexpr int64_t NEAR = 1024, FAR = 8192;   // bytes that a panel is fetched ahead to either cache
constexpr uint32_t MAGIC_BITS = 0x4b400000;  // of MAGIC

static inline int64_t group_of(int64_t group) { return group ? group : ANYCHIP_INPUT_GROUP; }

// Where one row of x lies in the scratch, in bytes. 64 more than it needs: rows a power of two apart would share
// few lines of the first-level cache.
static inline int64_t row_bytes(int64_t inputs) { return ceil_div(inputs, 64) * 64 + 64; }

// `place`: which of the scratch's parts for so many rows.
static inline Inputs inputs_of(void* scratch, int64_t rows, int64_t inputs, int64_t group, int64_t place) {
    const int64_t step = group_of(group), groups = ceil_div(inputs, step);
    char* from = static_cast<char*>(scratch) + place * rows * (8 * groups + row_bytes(inputs));
    float* scales = reinterpret_cast<float*>(from);
    int32_t* sums = reinterpret_cast<int32_t*>(from) + rows * groups;
    return {scales, sums, reinterpret_cast<int8_t*>(sums + rows * groups), row_bytes(inputs), rows, groups, step};
}

// One group of a row: `count` numbers, with zeros up to a multiple of STEP. What is not finite makes the scale NaN, and
// so the row's results.
template <typename Number>
static inline void quantize(const Number* x, int64_t count, float* scale, int32_t* whole_sum, int8_t* out) {
    constexpr int32_t SIZE = 0x7fffffff, INFINITE = 0x7f800000;  // a float's bits but the sign's; its order is theirs
    Ints most = {};
    for (int64_t i = 0; i < count; i += LANES) most = larger(most, (Ints)load_part(x + i, count - i) & SIZE);
    const int32_t bits = largest(most);
    float top;
    __builtin_memcpy(&top, &bits, sizeof top);
    const float inverse = top < TINY || bits >= INFINITE ? 0.0f : 127.0f / top;
    *scale = bits >= INFINITE ? __builtin_nanf("") : top < TINY ? 0.0f : top / 127.0f;
    Bits total = {};
    int64_t i = 0;
    for (; i < count; i += LANES) {
        const Bits whole = (Bits)(load_part(x + i, count - i) * inverse + MAGIC) - MAGIC_BITS;
        total += whole;
        const Bytes bytes = __builtin_convertvector(whole, Bytes);
        __builtin_memcpy(out + i, &bytes, sizeof bytes);
    }
    for (; i < ceil_div(count, STEP) * STEP; ++i) out[i] = 0;
    *whole_sum = static_cast<int32_t>(sum(total));
}

template <typename Number>
static void quantize_rows(const Number* x, int64_t x_stride, int64_t rows, int64_t inputs, const Inputs& to,
                          AnychipTeam team) {
    share(rows, worth(rows * inputs, team), [=](int64_t first, int64_t end) {
        for (int64_t r = first; r < end; ++r)
            for (int64_t g = 0; g < to.groups; ++g) {
                const int64_t i = g * to.step, at = to.place(r, g);
                quantize(x + r * x_stride + i, least(to.step, inputs - i), to.scales + at, to.sums + at,
                         to.bytes + r * to.stride + i);
            }
    });
}

// Adds the products of group g of ROWS rows and one panel to `sums`. A function of its own, and sums in memory, so that
// the registers are the products' alone.
template <int BITS, bool GROUPED, int ROWS>
static __attribute__((noinline)) void add_products(Vec (*sums)[VECTORS], const Inputs& x, int64_t row, const Panel& panel,
                                                   int64_t g) {
    const int64_t first = g * x.step, place = x.place(row, g);
    const int8_t* from = x.bytes + row * x.stride + first;
    const int8_t* const end = from + least(panel.inputs - first, x.step);
    const uint8_t* w = panel.bytes + first * BITS / 8 * WIDTH;
    Ints whole[ROWS][VECTORS];
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r)
        for (int v = 0; v < VECTORS; ++v) whole[r][v] = fill(start_of<BITS>(x.sums[place + r]));
    typedef DotsOf<BITS> Dots;
    const auto add = [&](const typename Dots::Weight(&four)[VECTORS], const int8_t* at) {
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; ++r) {
            int32_t word;
            __builtin_memcpy(&word, at + r * x.stride, sizeof word);
            const typename Dots::Input input = Dots::input(word);
            for (int v = 0; v < VECTORS; ++v) whole[r][v] = Dots::dot(whole[r][v], four[v], input);
        }
    };
    for (; from < end; from += 32 / BITS, w += WIDTH * 4) {
        fetch_ahead<ROWS, WIDTH * 4, FAR>(w);
        if (ROWS > FEW) __builtin_prefetch(w + NEAR), __builtin_prefetch(w + NEAR + 64);
        Bits words[VECTORS];
        typename Dots::Weight four[VECTORS];
        for (int v = 0; v < VECTORS; ++v) words[v] = *reinterpret_cast<const LooseBits*>(w + v * LANES * 4);
        for (int v = 0; v < VECTORS; ++v) four[v] = Dots::weight(BITS == 8 ? words[v] ^ FLIP : words[v] & 0x0f0f0f0fu);
        add(four, from);
        if (BITS == 8) continue;
        for (int v = 0; v < VECTORS; ++v) four[v] = Dots::weight(words[v] >> 4 & 0x0f0f0f0fu);
        add(four, from + 4);
    }
    Vec scale[VECTORS];
    for (int v = 0; v < VECTORS; ++v) scale[v] = group_scale<GROUPED>(panel, g, v);
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r)
        for (int v = 0; v < VECTORS; ++v)
            sums[r][v] = add_group<GROUPED>(sums[r][v], whole[r][v], x.scales[place + r], scale[v]);
}

// Asks for the lines of y that a tile will write: each row's is another page, and stores wait for them one by one.
template <int ROWS>
static inline void fetch_results(Kind kind, void* y, int64_t at, int64_t y_stride) {
    const int64_t size = kind == Kind::float32 ? 4 : 2;
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r)
        for (int64_t byte = 0; byte < WIDTH * size; byte += 64)
            __builtin_prefetch(static_cast<char*>(y) + (at + r * y_stride) * size + byte, 1);
}

// ROWS rows of x by one panel.
template <int BITS, bool GROUPED, int ROWS>
static void tile(const Inputs& x, int64_t row, const Panel& panel, void* y, int64_t at, int64_t y_stride) {
    Vec sums[ROWS][VECTORS] = {};
    if (ROWS > FEW) fetch_results<ROWS>(panel.kind, y, at, y_stride);
    for (int64_t g = 0; g < x.groups; ++g) add_products<BITS, GROUPED, ROWS>(sums, x, row, panel, g);
    finish(panel, GROUPED, sums, ROWS, y, at, y_stride);
}

typedef void (*Tile)(const Inputs&, int64_t, const Panel&, void*, int64_t, int64_t);

template <int BITS, bool GROUPED>
struct Tiles {
    static constexpr Tile OF[] = {
        nullptr,                  tile<BITS, GROUPED, 1>, tile<BITS, GROUPED, 2>, tile<BITS, GROUPED, 3>,
        tile<BITS, GROUPED, 4>,   tile<BITS, GROUPED, 5>, tile<BITS, GROUPED, 6>,
#if ANYCHIP_TILE == 12
        tile<BITS, GROUPED, 7>,   tile<BITS, GROUPED, 8>, tile<BITS, GROUPED, 9>,
        tile<BITS, GROUPED, 10>,  tile<BITS, GROUPED, 11>, tile<BITS, GROUPED, 12>,
#endif
    };
};

}  // namespace ANYCHIP_ISA
