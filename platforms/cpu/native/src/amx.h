// Products of tiles (AMX): up to 32 rows of x by one panel of 32 outputs, in a two by two block of tiles.
//
// Packed weights lie as tiles want them: a tile's row is four bytes of inputs for each of 16 outputs. Tiles 0 to 3 are
// sums (rows, then outputs), 4 and 5 rows of x, 6 and 7 outputs of the panel.
#pragma once

#ifdef ANYCHIP_EMULATED
#include "emulated.h"
#else
#include <immintrin.h>
#endif

#include "linear.h"

namespace ANYCHIP_ISA {

constexpr int64_t TILE_ROWS = 16;
constexpr int64_t TILE_BYTES = 64;               // of one row: inputs that one step takes, and 16 sums
constexpr int64_t BLOCK_ROWS = 2 * TILE_ROWS;    // rows of x
constexpr int64_t PANEL_STRIDE = WIDTH * 4;      // bytes of a panel's row
static_assert(PANEL_STRIDE == 2 * TILE_BYTES, "a panel is two tiles wide");

struct alignas(64) TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
};

// Tiles for `rows` of x, 1 to BLOCK_ROWS; the sums become zero.
static inline void open_tiles(int64_t rows) {
    const uint8_t low = static_cast<uint8_t>(least(rows, TILE_ROWS)), high = static_cast<uint8_t>(rows - low);
    const uint8_t of[8] = {low, low, high, high, low, high, TILE_ROWS, TILE_ROWS};
    TileConfig config;
    for (int t = 0; t < 8; ++t) config.rows[t] = of[t], config.row_bytes[t] = of[t] ? TILE_BYTES : 0;
    _tile_loadconfig(&config);
}

static inline void clear_tiles(bool high) {
    _tile_zero(0);
    _tile_zero(1);
    if (!high) return;
    _tile_zero(2);
    _tile_zero(3);
}

static inline void load_tiles(const void* x, int64_t x_stride, const void* panel, bool high) {
    const char *rows = static_cast<const char*>(x), *outputs = static_cast<const char*>(panel);
    _tile_loadd(4, rows, x_stride);
    _tile_loadd(6, outputs, PANEL_STRIDE);
    _tile_loadd(7, outputs + TILE_BYTES, PANEL_STRIDE);
    if (high) _tile_loadd(5, rows + TILE_ROWS * x_stride, x_stride);
}

// Adds the products of one step: 32 inputs in bfloat16. x_stride: bytes.
static inline void add_bf16(const void* x, int64_t x_stride, const void* panel, bool high) {
    load_tiles(x, x_stride, panel, high);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if (!high) return;
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
}

// The same of 64 inputs in 8 bits: x with sign, the panel without.
static inline void add_int8(const void* x, int64_t x_stride, const void* panel, bool high) {
    load_tiles(x, x_stride, panel, high);
    _tile_dpbsud(0, 4, 6);
    _tile_dpbsud(1, 4, 7);
    if (!high) return;
    _tile_dpbsud(2, 5, 6);
    _tile_dpbsud(3, 5, 7);
}

// sums: [BLOCK_ROWS, WIDTH], of 32 bits each.
static inline void store_tiles(void* sums, bool high) {
    char* to = static_cast<char*>(sums);
    _tile_stored(0, to, PANEL_STRIDE);
    _tile_stored(1, to + TILE_BYTES, PANEL_STRIDE);
    if (!high) return;
    _tile_stored(2, to + TILE_ROWS * PANEL_STRIDE, PANEL_STRIDE);
    _tile_stored(3, to + TILE_ROWS * PANEL_STRIDE + TILE_BYTES, PANEL_STRIDE);
}

static inline void close_tiles() { _tile_release(); }

// A step's inputs where fewer than TILE_BYTES are left: zeros behind them, for tiles read whole rows.
struct alignas(64) LastStep {
    char x[BLOCK_ROWS][TILE_BYTES];
    char panel[TILE_ROWS][PANEL_STRIDE];

    void take_rows(const void* from, int64_t stride, int64_t rows, int64_t bytes) {
        for (int64_t r = 0; r < rows; ++r) {
            __builtin_memcpy(x[r], static_cast<const char*>(from) + r * stride, bytes);
            __builtin_memset(x[r] + bytes, 0, TILE_BYTES - bytes);
        }
    }
    void take_panel(const void* from, int64_t rows) {
        __builtin_memcpy(panel, from, rows * PANEL_STRIDE);
        __builtin_memset(panel[rows], 0, (TILE_ROWS - rows) * PANEL_STRIDE);
    }
};

}  // namespace ANYCHIP_ISA
