// y = x W^T + b in float32, and in float16 with sums in float32. `Weight`: what the weight is kept in; numbers of 16 bits
// are widened as they are read, which is exact, so that float32 over them gives what it gives over the same numbers in 32
// bits, bit by bit, for half of the reading.
//
// A panel is WIDTH outputs with all their inputs, contiguous. Few rows read every panel once, in order, at the memory's
// speed; many rows reuse it from the second-level cache, TILE rows at a time with their sums in registers (Goto and
// van de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008, with the weight packed ahead of time).
#include "linear_tile.h"

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

template <typename Number, typename Weight>
static void multiply(const AnychipLinear& w, const float* x, int64_t x_stride, AnychipTeam team) {
    const Weight* packed = static_cast<const Weight*>(w.packed);
    const Number* bias = static_cast<const Number*>(w.bias);
    const int64_t panel = ceil_div(w.inputs, PAIR<Weight>) * PAIR<Weight> * WIDTH;
    by_panels<TILE, Number>(w, team, [=](int64_t row, int64_t count, int64_t place, int64_t column, Number* y,
                                         int64_t y_stride) {
        Tiles<Number, Weight>::OF[count](x + row * x_stride, x_stride, packed + place * panel,
                                         bias ? bias + column : nullptr, w.outputs - column, w.inputs, y, y_stride);
    });
}

template <typename Weight>
void linear_f32(const void* arguments, AnychipTeam team) {
    const AnychipLinear& w = *static_cast<const AnychipLinear*>(arguments);
    multiply<float, Weight>(w, static_cast<const float*>(w.x), w.x_stride, team);
}

void linear_f16(const void* arguments, AnychipTeam team) {
    const AnychipLinear& w = *static_cast<const AnychipLinear*>(arguments);
    const Float16* x = static_cast<const Float16*>(w.x);
    float* wide = static_cast<float*>(w.scratch);
    const int64_t rows = live_rows(w.rows, w.live), stride = w.inputs + 16;  // rows 4 KiB apart would share few lines
    share(rows, worth(rows * w.inputs, team), [=](int64_t first, int64_t end) {
        for (int64_t r = first; r < end; ++r)
            for (int64_t i = 0; i < w.inputs; i += LANES)
                store_part(wide + r * stride + i, load_part(x + r * w.x_stride + i, w.inputs - i), w.inputs - i);
    });
    barrier(team);
    multiply<Float16, Float16>(w, wide, stride, team);
}

template void pack<float>(const void*, AnychipTeam);
template void pack<Float16>(const void*, AnychipTeam);
template void linear_f32<float>(const void*, AnychipTeam);
template void linear_f32<Bfloat16>(const void*, AnychipTeam);
template void linear_f32<Float16>(const void*, AnychipTeam);

}  // namespace ANYCHIP_ISA
