// Products of tiles (AMX) with weights of 8 or 4 bits.
#pragma once

#include "amx.h"
#include "linear_int.h"

namespace ANYCHIP_ISA {

constexpr int64_t TILED_FROM = 5;  // fewer rows wait for the memory, and tiles would only be in the way

// Inputs first..end, at most TILE_BYTES, of the panel's w as bytes.
template <int BITS>
static inline const void* step_of(const uint8_t* w, int64_t count, LastStep& last) {
    if (BITS == 8 && count == TILE_BYTES) return w;
    if (BITS == 8) {
        last.take_panel(w, count / 4);
        return last.panel;
    }
    for (int64_t i = 0; i < count; i += 8, w += PANEL_STRIDE)
        for (int64_t o = 0; o < PANEL_STRIDE; ++o) {
            last.panel[i / 4][o] = static_cast<char>(w[o] & 15);
            last.panel[i / 4 + 1][o] = static_cast<char>(w[o] >> 4);
        }
    __builtin_memset(last.panel[0] + count / 4 * PANEL_STRIDE, 0, (TILE_ROWS - count / 4) * PANEL_STRIDE);
    return last.panel;
}

// The sums of group g: [rows, WIDTH] -> whole.
template <int BITS>
static inline void add_steps(const Inputs& x, int64_t row, int64_t rows, const Panel& panel, int64_t g, LastStep& last,
                      int32_t* whole) {
    const bool high = rows > TILE_ROWS;
    const int64_t end = least(panel.inputs, (g + 1) * x.step);
    clear_tiles(high);
    for (int64_t i = g * x.step; i < end; i += TILE_BYTES) {
        const int64_t count = least(TILE_BYTES, end - i);
        const int8_t* from = x.bytes + row * x.stride + i;
        const void* w = step_of<BITS>(panel.bytes + i * BITS / 8 * WIDTH, count, last);
        if (count == TILE_BYTES) {
            add_int8(from, x.stride, w, high);
            continue;
        }
        last.take_rows(from, x.stride, rows, count);
        add_int8(last.x, TILE_BYTES, w, high);
    }
    store_tiles(whole, high);
}

template <int BITS, bool GROUPED>
static inline void tiled(const Inputs& x, int64_t row, int64_t rows, const Panel& panel, void* y, int64_t at,
                     int64_t y_stride) {
    alignas(64) int32_t whole[BLOCK_ROWS * WIDTH];
    Vec sum[BLOCK_ROWS][VECTORS];
    LastStep last;
    for (int64_t r = 0; r < rows; ++r)
        for (int v = 0; v < VECTORS; ++v) sum[r][v] = Vec{};
    open_tiles(rows);
    for (int64_t g = 0; g < x.groups; ++g) {
        add_steps<BITS>(x, row, rows, panel, g, last, whole);
        Vec scale[VECTORS];
        for (int v = 0; v < VECTORS; ++v) scale[v] = group_scale<GROUPED>(panel, g, v);
        for (int64_t r = 0; r < rows; ++r)
            for (int v = 0; v < VECTORS; ++v) {
                Ints part;
                __builtin_memcpy(&part, whole + r * WIDTH + v * LANES, sizeof part);
                // Without sign, since what is made of NaN may wrap.
                part = (Ints)((Bits)part + (Bits)fill(start_of<BITS>(x.sums[x.place(row + r, g)])));
                sum[r][v] = add_group<GROUPED>(sum[r][v], part, x.scales[x.place(row + r, g)], scale[v]);
            }
    }
    finish(panel, GROUPED, sum, rows, y, at, y_stride);
}

}  // namespace ANYCHIP_ISA
