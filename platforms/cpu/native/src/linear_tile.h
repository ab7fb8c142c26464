// Some rows of x by one panel of a weight in float32, bfloat16 or float16, with sums in float32.
#pragma once

#include "halves.h"
#include "panels.h"

namespace ANYCHIP_ISA {

// The weights of PAIR inputs from `w` on.
template <typename Weight>
static inline void widen(const Weight* w, Vec (&rows)[1][VECTORS]) {
    for (int v = 0; v < VECTORS; ++v) rows[0][v] = load(w + v * LANES);
}
static inline void widen(const Bfloat16* w, Vec (&rows)[2][VECTORS]) {
    for (int v = 0; v < VECTORS; ++v) {
        Bits words;
        __builtin_memcpy(&words, w + 2 * v * LANES, sizeof words);
        rows[0][v] = (Vec)(words << 16), rows[1][v] = (Vec)(words & 0xffff0000u);
    }
}

// ROWS rows of x by one panel. `count`: the panel's outputs that exist.
template <typename Number, typename Weight, int ROWS>
static void tile(const float* x, int64_t x_stride, const Weight* panel, const Number* bias, int64_t count,
                 int64_t inputs, Number* y, int64_t y_stride) {
    constexpr int64_t pair = PAIR<Weight>;
    Vec sum[ROWS][VECTORS] = {};
    const auto step = [&](int64_t i, int64_t there) {
        const Weight* w = panel + i * WIDTH;
        fetch_ahead<ROWS, pair * WIDTH * sizeof(Weight)>(w);
        Vec rows[pair][VECTORS];
        widen(w, rows);
        for (int64_t p = 0; p < there; ++p)
#pragma GCC unroll 12
            for (int r = 0; r < ROWS; ++r)
                for (int v = 0; v < VECTORS; ++v) sum[r][v] += fill(x[r * x_stride + i + p]) * rows[p][v];
    };
    const int64_t whole = inputs / pair * pair;
    for (int64_t i = 0; i < whole; i += pair) step(i, pair);
    if (whole < inputs) step(whole, 1);
    for (int v = 0; v < VECTORS; ++v) {
        const int64_t left = count - v * LANES;
        if (left <= 0) break;
        const Vec b = bias ? load_part(bias + v * LANES, left) : Vec{};
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; ++r) store_part(y + r * y_stride + v * LANES, sum[r][v] + b, left);
    }
}

template <typename Number, typename Weight>
using Tile = void (*)(const float*, int64_t, const Weight*, const Number*, int64_t, int64_t, Number*, int64_t);

template <typename N, typename W>
struct Tiles {
    static constexpr Tile<N, W> OF[] = {
        nullptr,       tile<N, W, 1>, tile<N, W, 2>, tile<N, W, 3>,  tile<N, W, 4>,  tile<N, W, 5>,  tile<N, W, 6>,
#if ANYCHIP_TILE == 12
        tile<N, W, 7>, tile<N, W, 8>, tile<N, W, 9>, tile<N, W, 10>, tile<N, W, 11>, tile<N, W, 12>,
#endif
    };
};

}  // namespace ANYCHIP_ISA
