// y = x W^T + b in float32.
//
// A panel is WIDTH outputs with all their inputs, contiguous. Few rows read every panel once, in order, at the memory's
// speed; many rows reuse it from the second-level cache, TILE rows at a time with their sums in registers (Goto and
// van de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008, with the weight packed ahead of time).
#include "linear.h"

#include "threads.h"

namespace ANYCHIP_ISA {

constexpr int64_t AHEAD = 2048 / 4;  // floats that a panel is fetched ahead

void pack_f32(const float* weight, int64_t outputs, int64_t inputs, float* packed, int64_t threads) {
    share(ceil_div(outputs, WIDTH), threads, [=](int64_t first, int64_t end) {
        for (int64_t panel = first; panel < end; ++panel) {
            const int64_t count = least(WIDTH, outputs - panel * WIDTH);
            const float* rows = weight + panel * WIDTH * inputs;
            float* out = packed + panel * WIDTH * inputs;
            for (int64_t i = 0; i < inputs; ++i)
                for (int64_t o = 0; o < WIDTH; ++o) out[i * WIDTH + o] = o < count ? rows[o * inputs + i] : 0.0f;
        }
    });
}

// ROWS rows of x by one panel. `count`: the panel's outputs that exist.
template <int ROWS>
static void tile(const float* x, int64_t x_stride, const float* panel, const float* bias, int64_t count,
                 int64_t inputs, float* y, int64_t y_stride) {
    Vec sum[ROWS][VECTORS] = {};
    for (int64_t i = 0; i < inputs; ++i) {
        const float* w = panel + i * WIDTH;
        if (ROWS <= 4) __builtin_prefetch(w + AHEAD), __builtin_prefetch(w + AHEAD + 16);
        Vec row[VECTORS];
        for (int v = 0; v < VECTORS; ++v) row[v] = load(w + v * LANES);
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; ++r)
            for (int v = 0; v < VECTORS; ++v) sum[r][v] += fill(x[r * x_stride + i]) * row[v];
    }
    for (int v = 0; v < VECTORS; ++v) {
        const int64_t left = count - v * LANES;
        if (left <= 0) break;
        const Vec b = bias ? load_part(bias + v * LANES, left) : Vec{};
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; ++r) store_part(y + r * y_stride + v * LANES, sum[r][v] + b, left);
    }
}

typedef void (*Tile)(const float*, int64_t, const float*, const float*, int64_t, int64_t, float*, int64_t);
static const Tile TILES[] = {nullptr,  tile<1>, tile<2>, tile<3>, tile<4>,  tile<5>,  tile<6>,
#if ANYCHIP_LANES == 16
                             tile<7>, tile<8>, tile<9>, tile<10>, tile<11>, tile<12>
#endif
};

namespace {

struct Product {
    const float *x, *packed, *bias;
    float* y;
    int64_t x_stride, y_stride, rows, outputs, inputs;

    // Rows first..end by panels from..to: every panel passes over BLOCK rows at a time.
    void run(int64_t first, int64_t end, int64_t from, int64_t to) const {
        for (int64_t block = first; block < end; block += BLOCK) {
            const int64_t block_end = least(end, block + BLOCK);
            for (int64_t panel = from; panel < to; ++panel)
                for (int64_t row = block; row < block_end; row += TILE) part(row, least(TILE, block_end - row), panel);
        }
    }

    void part(int64_t row, int64_t count, int64_t panel) const {
        const int64_t column = panel * WIDTH;
        TILES[count](x + row * x_stride, x_stride, packed + column * inputs, bias ? bias + column : nullptr,
                     outputs - column, inputs, y + row * y_stride + column, y_stride);
    }
};

}  // namespace

void linear_f32(const float* x, int64_t x_stride, int64_t rows, const float* packed, const float* bias,
                int64_t outputs, int64_t inputs, float* y, int64_t y_stride, int64_t threads) {
    const Product product{x, packed, bias, y, x_stride, y_stride, rows, outputs, inputs};
    const int64_t panels = ceil_div(outputs, WIDTH), tiles = ceil_div(rows, TILE);
    if (panels >= 4 * threads || panels >= tiles)  // each thread reads its own part of the weight
        share(panels, threads, [=](int64_t from, int64_t to) { product.run(0, rows, from, to); });
    else
        share(tiles, threads, [=](int64_t first, int64_t end) {
            product.run(first * TILE, least(rows, end * TILE), 0, panels);
        });
}

}  // namespace ANYCHIP_ISA
