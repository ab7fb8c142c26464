// y = x W^T + b in float32, and in float16 with sums in float32.
//
// A panel is WIDTH outputs with all their inputs, contiguous. Few rows read every panel once, in order, at the memory's
// speed; many rows reuse it from the second-level cache, TILE rows at a time with their sums in registers (Goto and
// van de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008, with the weight packed ahead of time).
#include "halves.h"
#include "panels.h"

namespace ANYCHIP_ISA {

template <typename Number>
void pack(const void* arguments, AnychipTeam team) {
    const AnychipPack& w = *static_cast<const AnychipPack*>(arguments);
    const Number* weight = static_cast<const Number*>(w.weight);
    Number* packed = static_cast<Number*>(w.packed);
    const int64_t outputs = w.outputs, inputs = w.inputs;
    share(ceil_div(outputs, WIDTH), team, [=](int64_t first, int64_t end) {
        for (int64_t panel = first; panel < end; ++panel) {
            const int64_t count = least(WIDTH, outputs - panel * WIDTH);
            const Number* rows = weight + panel * WIDTH * inputs;
            Number* out = packed + panel * WIDTH * inputs;
            for (int64_t i = 0; i < inputs; ++i)
                for (int64_t o = 0; o < WIDTH; ++o) out[i * WIDTH + o] = o < count ? rows[o * inputs + i] : Number{};
        }
    });
}

// ROWS rows of x by one panel. `count`: the panel's outputs that exist.
template <typename Number, int ROWS>
static void tile(const float* x, int64_t x_stride, const Number* panel, const Number* bias, int64_t count,
                 int64_t inputs, Number* y, int64_t y_stride) {
    Vec sum[ROWS][VECTORS] = {};
    for (int64_t i = 0; i < inputs; ++i) {
        const Number* w = panel + i * WIDTH;
        fetch_ahead<ROWS, WIDTH * sizeof(Number)>(w);
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

template <typename Number>
using Tile = void (*)(const float*, int64_t, const Number*, const Number*, int64_t, int64_t, Number*, int64_t);

template <typename N>
struct Tiles {
    static constexpr Tile<N> OF[] = {
        nullptr,     tile<N, 1>,  tile<N, 2>,  tile<N, 3>,  tile<N, 4>, tile<N, 5>, tile<N, 6>,
#if ANYCHIP_TILE == 12
        tile<N, 7>,  tile<N, 8>,  tile<N, 9>,  tile<N, 10>, tile<N, 11>, tile<N, 12>,
#endif
    };
};

template <typename Number>
static void multiply(const AnychipLinear& w, const float* x, int64_t x_stride, AnychipTeam team) {
    const Number *packed = static_cast<const Number*>(w.packed), *bias = static_cast<const Number*>(w.bias);
    by_panels<TILE, Number>(w, team, [=](int64_t row, int64_t count, int64_t place, int64_t column, Number* y,
                                         int64_t y_stride) {
        Tiles<Number>::OF[count](x + row * x_stride, x_stride, packed + place * WIDTH * w.inputs,
                                 bias ? bias + column : nullptr, w.outputs - column, w.inputs, y, y_stride);
    });
}

void linear_f32(const void* arguments, AnychipTeam team) {
    const AnychipLinear& w = *static_cast<const AnychipLinear*>(arguments);
    multiply<float>(w, static_cast<const float*>(w.x), w.x_stride, team);
}

void linear_f16(const void* arguments, AnychipTeam team) {
    const AnychipLinear& w = *static_cast<const AnychipLinear*>(arguments);
    const Float16* x = static_cast<const Float16*>(w.x);
    float* wide = static_cast<float*>(w.scratch);
    const int64_t rows = live_rows(w.rows, w.live);
    share(rows, worth(rows * w.inputs, team), [=](int64_t first, int64_t end) {
        for (int64_t r = first; r < end; ++r)
            for (int64_t i = 0; i < w.inputs; i += LANES)
                store_part(wide + r * w.inputs + i, load_part(x + r * w.x_stride + i, w.inputs - i), w.inputs - i);
    });
    barrier(team);
    multiply<Float16>(w, wide, w.inputs, team);
}

template void pack<float>(const void*, AnychipTeam);
template void pack<Float16>(const void*, AnychipTeam);

}  // namespace ANYCHIP_ISA
