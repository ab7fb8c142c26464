// y = x W^T + b in bfloat16, with sums in float32.
//
// Inputs lie in pairs, one 32-bit word for each output: what a bfloat16 dot product takes (it reads subnormal numbers
// as zero), and what a shift and a mask turn into two floats where there is none.
#ifdef ANYCHIP_TILES
#include "amx.h"
#endif
#ifdef __aarch64__
#include <arm_neon.h>
#endif

#include "halves.h"
#include "panels.h"

namespace ANYCHIP_ISA {

typedef uint32_t LooseBits __attribute__((vector_size(4 * ANYCHIP_LANES), aligned(4), may_alias));

void pack_bf16(const void* arguments, AnychipTeam team) {
    const AnychipPack& w = *static_cast<const AnychipPack*>(arguments);
    const uint16_t* weight = static_cast<const uint16_t*>(w.weight);
    uint16_t* packed = static_cast<uint16_t*>(w.packed);
    const int64_t outputs = w.outputs, inputs = w.inputs;
    const int64_t padded = (inputs + 1) / 2 * 2;
    share(ceil_div(outputs, WIDTH), team, [=](int64_t first, int64_t end) {
        for (int64_t panel = first; panel < end; ++panel) {
            const int64_t count = least(WIDTH, outputs - panel * WIDTH);
            const uint16_t* rows = weight + panel * WIDTH * inputs;
            uint16_t* out = packed + panel * WIDTH * padded;
            for (int64_t i = 0; i < padded; ++i)
                for (int64_t o = 0; o < WIDTH; ++o)
                    out[(i / 2 * WIDTH + o) * 2 + i % 2] = o < count && i < inputs ? rows[o * inputs + i] : uint16_t{0};
        }
    });
}

#ifdef ANYCHIP_TILES

constexpr int64_t ROWS_AT_ONCE = BLOCK_ROWS;

// `rows` of x, at most ROWS_AT_ONCE, by one panel. Few rows too: another order of adding would make a row's result
// depend on how many there are.
static void part_of(const uint16_t* x, int64_t x_stride, int64_t rows, const uint32_t* panel, const Bfloat16* bias,
                    int64_t count, int64_t inputs, Bfloat16* y, int64_t y_stride) {
    constexpr int64_t STEP = TILE_BYTES / 2;
    const bool high = rows > TILE_ROWS;
    const int64_t whole = inputs / STEP * STEP;
    alignas(64) float sums[BLOCK_ROWS * WIDTH];
    open_tiles(rows);
    clear_tiles(high);
    for (int64_t i = 0; i < whole; i += STEP) add_bf16(x + i, x_stride * 2, panel + i / 2 * WIDTH, high);
    if (whole < inputs) {
        LastStep last;
        last.take_rows(x + whole, x_stride * 2, rows, (inputs - whole) * 2);
        last.take_panel(panel + whole / 2 * WIDTH, ceil_div(inputs - whole, 2));
        add_bf16(last.x, TILE_BYTES, last.panel, high);
    }
    store_tiles(sums, high);
    for (int v = 0; v < VECTORS && count > v * LANES; ++v) {
        const int64_t left = count - v * LANES;
        const Vec b = bias ? load_part(bias + v * LANES, left) : Vec{};
        for (int64_t r = 0; r < rows; ++r)
            store_part(y + r * y_stride + v * LANES, load(sums + r * WIDTH + v * LANES) + b, left);
    }
}

#else

// sum + x's low half * w's low halves + x's high half * w's high halves.
static inline Vec dot(Vec sum, Bits x, Bits w) {
#ifdef __AVX512BF16__
    return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)w);
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
    return (Vec)vbfdotq_f32((float32x4_t)sum, (bfloat16x8_t)x, (bfloat16x8_t)w);
#else
    sum += (Vec)(x << 16) * (Vec)(w << 16);
    return sum + (Vec)(x & 0xffff0000u) * (Vec)(w & 0xffff0000u);
#endif
}

// ROWS rows of x by one panel. `count`: the panel's outputs that exist.
template <int ROWS>
static void tile(const uint16_t* x, int64_t x_stride, const uint32_t* panel, const Bfloat16* bias, int64_t count,
                 int64_t inputs, Bfloat16* y, int64_t y_stride) {
    Vec sum[ROWS][VECTORS] = {};
    if (bias)
        for (int64_t o = 0; o < least(WIDTH, count); ++o)
            for (int r = 0; r < ROWS; ++r) sum[r][o / LANES][o % LANES] = widened(bias[o]);
    const auto step = [&](int64_t i, bool whole) {
        const uint32_t* w = panel + i / 2 * WIDTH;
        fetch_ahead<ROWS, WIDTH * sizeof(uint32_t)>(w);
        Bits row[VECTORS];
        for (int v = 0; v < VECTORS; ++v) row[v] = *reinterpret_cast<const LooseBits*>(w + v * LANES);
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; ++r) {
            uint32_t pair = x[r * x_stride + i];
            if (whole) __builtin_memcpy(&pair, x + r * x_stride + i, sizeof pair);
            for (int v = 0; v < VECTORS; ++v) sum[r][v] = dot(sum[r][v], pair + Bits{}, row[v]);
        }
    };
    for (int64_t i = 0; i + 1 < inputs; i += 2) step(i, true);
    if (inputs % 2) step(inputs - 1, false);
    for (int v = 0; v < VECTORS && count > v * LANES; ++v)
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; ++r) store_part(y + r * y_stride + v * LANES, sum[r][v], count - v * LANES);
}

typedef void (*Tile)(const uint16_t*, int64_t, const uint32_t*, const Bfloat16*, int64_t, int64_t, Bfloat16*, int64_t);
static const Tile TILES[] = {nullptr,  tile<1>, tile<2>, tile<3>, tile<4>,  tile<5>,  tile<6>,
#if ANYCHIP_TILE == 12
                             tile<7>, tile<8>, tile<9>, tile<10>, tile<11>, tile<12>
#endif
};

constexpr int64_t ROWS_AT_ONCE = TILE;

static void part_of(const uint16_t* x, int64_t x_stride, int64_t rows, const uint32_t* panel, const Bfloat16* bias,
                    int64_t count, int64_t inputs, Bfloat16* y, int64_t y_stride) {
    TILES[rows](x, x_stride, panel, bias, count, inputs, y, y_stride);
}

#endif

void linear_bf16(const void* arguments, AnychipTeam team) {
    const AnychipLinear& w = *static_cast<const AnychipLinear*>(arguments);
    const uint16_t* x = static_cast<const uint16_t*>(w.x);
    const Bfloat16* bias = static_cast<const Bfloat16*>(w.bias);
    const uint32_t* packed = static_cast<const uint32_t*>(w.packed);
    by_panels<ROWS_AT_ONCE, Bfloat16>(w, team, [=](int64_t row, int64_t count, int64_t place, int64_t column,
                                                   Bfloat16* y, int64_t y_stride) {
        part_of(x + row * w.x_stride, w.x_stride, count, packed + place * WIDTH * ceil_div(w.inputs, 2),
                bias ? bias + column : nullptr, w.outputs - column, w.inputs, y, y_stride);
    });
#ifdef ANYCHIP_TILES
    close_tiles();
#endif
}

}  // namespace ANYCHIP_ISA
