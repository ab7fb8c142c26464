// y = x W^T + b in float32.
//
// A panel is WIDTH outputs with all their inputs, contiguous. Few rows read every panel once, in order, at the memory's
// speed; many rows reuse it from the second-level cache, TILE rows at a time with their sums in registers (Goto and
// van de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008, with the weight packed ahead of time).
#include "panels.h"

namespace ANYCHIP_ISA {

constexpr int64_t AHEAD = 2048 / 4;  // floats that a panel is fetched ahead

void pack_f32(const void* arguments, AnychipTeam team) {
    const AnychipPack& w = *static_cast<const AnychipPack*>(arguments);
    const float* weight = static_cast<const float*>(w.weight);
    float* packed = static_cast<float*>(w.packed);
    const int64_t outputs = w.outputs, inputs = w.inputs;
    share(ceil_div(outputs, WIDTH), team, [=](int64_t first, int64_t end) {
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

void linear_f32(const void* arguments, AnychipTeam team) {
    const AnychipLinear& w = *static_cast<const AnychipLinear*>(arguments);
    const float *x = static_cast<const float*>(w.x), *bias = static_cast<const float*>(w.bias);
    const float* packed = static_cast<const float*>(w.packed);
    float* y = static_cast<float*>(w.y);
    by_panels(live_rows(w.rows, w.live), w.outputs, team, [=](int64_t row, int64_t count, int64_t panel) {
        const int64_t column = panel * WIDTH;
        TILES[count](x + row * w.x_stride, w.x_stride, packed + column * w.inputs, bias ? bias + column : nullptr,
                     w.outputs - column, w.inputs, y + row * w.y_stride + column, w.y_stride);
    });
}

}  // namespace ANYCHIP_ISA
