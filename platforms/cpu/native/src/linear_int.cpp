// y = x W^T + b with weights of 8 or 4 bits and x in 8 bits.
#include "linear_int_tile.h"
#ifdef ANYCHIP_TILES
#include "linear_int_tiles.h"
#endif

namespace ANYCHIP_ISA {

// `count` rows of x, at most ROWS_AT_ONCE, by one panel.
#ifdef ANYCHIP_TILES
constexpr int64_t ROWS_AT_ONCE = BLOCK_ROWS;
#else
constexpr int64_t ROWS_AT_ONCE = TILE;
#endif
template <int BITS, bool GROUPED>
static void part_of(const Inputs& x, int64_t row, int64_t count, const Panel& panel, void* y, int64_t at,
                    int64_t y_stride) {
#ifdef ANYCHIP_TILES
    if (count >= TILED_FROM) return tiled<BITS, GROUPED>(x, row, count, panel, y, at, y_stride);
#endif
    Tiles<BITS, GROUPED>::OF[count](x, row, panel, y, at, y_stride);
}

template <typename Number>
void linear_int(const void* arguments, AnychipTeam team) {
    const AnychipLinear& w = *static_cast<const AnychipLinear*>(arguments);
    const float* bias = static_cast<const float*>(w.bias);
    const uint8_t* packed = static_cast<const uint8_t*>(w.packed);
    const int64_t rows = live_rows(w.rows, w.live);
    // Few inputs are made whole numbers by every thread for itself: sooner than it would have them from another.
    const bool apart = rows <= FEW && worth(rows * w.inputs, team).all == 1;
    const Inputs whole = inputs_of(w.scratch, rows, w.inputs, w.group, apart ? team.me : 0);
    const AnychipTeam sharers = apart ? AnychipTeam{0, 1, team.meeting, nullptr} : team;
    quantize_rows(static_cast<const Number*>(w.x), w.x_stride, rows, w.inputs, whole, sharers);
    if (!apart) barrier(team);
    const int64_t padded = ceil_div(w.inputs, STEP) * STEP, groups = w.group ? whole.groups : 1;
    const auto tiles = w.bits == 4 ? part_of<4, true> : w.group ? part_of<8, true> : part_of<8, false>;
    by_panels<ROWS_AT_ONCE, Number>(w, team, [=](int64_t row, int64_t count, int64_t place, int64_t column, Number* y,
                                                 int64_t y_stride) {
        const Panel p = {packed + place * WIDTH * padded * w.bits / 8, w.scales + place * WIDTH * groups,
                         bias ? bias + column : nullptr, w.outputs - column, padded, KIND<Number>};
        tiles(whole, row, count, p, y, 0, y_stride);
    });
#ifdef ANYCHIP_TILES
    close_tiles();
#endif
}

template void linear_int<float>(const void*, AnychipTeam);
template void linear_int<Bfloat16>(const void*, AnychipTeam);
template void linear_int<Float16>(const void*, AnychipTeam);

}  // namespace ANYCHIP_ISA
