// How products with packed weights are shared out and ordered, whatever the weight's type.
#pragma once

#include "elementwise.h"
#include "linear.h"
#include "threads.h"

namespace ANYCHIP_ISA {

constexpr int64_t FEW = ANYCHIP_FEW_ROWS;

// Fetches BYTES of a panel, some time before ROWS rows meet them: to the second-level cache, where other rows find them
// as well. Few rows read them once and do nothing but wait for the memory, so nothing else is to leave the caches for
// them: between two steps the interpreter finds its own data there.
template <int ROWS, int64_t BYTES, int64_t FAR = 16384>
static inline void fetch_ahead(const void* panel) {
    constexpr int64_t AHEAD = ROWS > FEW ? FAR : 8192;
    for (int64_t i = 0; i < BYTES; i += 64)
        __builtin_prefetch(static_cast<const char*>(panel) + AHEAD + i, 0, ROWS > FEW ? 2 : 0);
}

// y = activation(y) * up, for `rows` rows of one panel.
template <typename Number>
static inline void activate(int64_t activation, Number* y, int64_t y_stride, const Number* up, int64_t rows) {
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = 0; i < WIDTH; i += LANES) {
            Number* at = y + r * y_stride + i;
            store(at, activated(activation, load(at)) * load(up + r * WIDTH + i));
        }
}

// Which rows meet which panels of the weight, the `group`-th of those that are packed one after another.
struct Block {
    int64_t first, end, from, to, group;
};

// Calls product for every row of a block and one panel.
template <int64_t TILE_OF, typename Number, typename Product>
static inline void pass(const Block& b, int64_t place, int64_t column, Number* y, int64_t y_stride,
                        const Product& product) {
    for (int64_t row = b.first; row < b.end; row += TILE_OF)
        product(row, least(TILE_OF, b.end - row), place, column, y + (row - b.first) * y_stride, y_stride);
}

// A block of at most BLOCK rows whose panels are the gate's; those of what it opens lie as many panels behind them as
// there are.
template <int64_t TILE_OF, typename Number, typename Product>
static inline void walk_gated(const AnychipLinear& w, const Block& b, const Product& product) {
    const int64_t half = w.outputs / 2, panels = half / WIDTH, place = 2 * b.group * panels;
    Number* y = static_cast<Number*>(w.y) + b.first * w.y_stride;
    Number up[BLOCK * WIDTH];
    const auto gate = [&](int64_t panel) {
        pass<TILE_OF>(b, place + panel, panel * WIDTH, y + panel * WIDTH, w.y_stride, product);
    };
    // Few rows wait for the memory, which is fastest where panels follow each other.
    const bool few = b.end - b.first <= FEW;
    for (int64_t panel = b.from; few && panel < b.to; ++panel) gate(panel);
    for (int64_t panel = b.from; panel < b.to; ++panel) {
        if (!few) gate(panel);
        pass<TILE_OF>(b, place + panels + panel, half + panel * WIDTH, up, WIDTH, product);
        activate(w.activation, y + panel * WIDTH, w.y_stride, up, b.end - b.first);
    }
}

// Every panel passes over BLOCK rows at a time.
template <int64_t TILE_OF, typename Number, typename Product>
static inline void walk(const AnychipLinear& w, const Block& all, const Product& product) {
    const int64_t place = all.group * ceil_div(w.outputs, WIDTH);
    for (int64_t first = all.first; first < all.end; first += BLOCK) {
        const Block b = {first, least(all.end, first + BLOCK), all.from, all.to, all.group};
        Number* y = static_cast<Number*>(w.y) + first * w.y_stride;
        if (w.activation)
            walk_gated<TILE_OF, Number>(w, b, product);
        else
            for (int64_t panel = b.from; panel < b.to; ++panel)
                pass<TILE_OF>(b, place + panel, panel * WIDTH, y + panel * WIDTH, w.y_stride, product);
    }
}

// Groups of rows with a weight each. A panel costs a thread its reading, as much as READ rows, and its rows.
template <int64_t TILE_OF, typename Number, typename Product>
static inline void by_groups(const AnychipLinear& w, int64_t panels, AnychipTeam team, const Product& product) {
    constexpr int64_t READ = 8;
    const auto cost = [=](int64_t g) -> int64_t {
        const int64_t rows = w.starts[g + 1] - w.starts[g];
        return rows > 0 ? READ + rows : 0;
    };
    int64_t total = 0;
    for (int64_t g = 0; g < w.groups; ++g) total += panels * cost(g);
    const int64_t first = total * team.me / team.all, end = total * (team.me + 1) / team.all;
    for (int64_t g = 0, before = 0; g < w.groups; before += panels * cost(g++)) {
        if (cost(g) == 0 || before >= end) continue;
        const int64_t from = first > before ? least(panels, ceil_div(first - before, cost(g))) : 0;
        const int64_t to = least(panels, ceil_div(end - before, cost(g)));
        walk<TILE_OF, Number>(w, {w.starts[g], w.starts[g + 1], from, to, g}, product);
    }
}

// Many rows: threads take runs of (block of rows, panel) as they get to them, ever shorter ones, so that one that is
// kept waiting, or whose core is slower, holds nobody up (Polychronopoulos and Kuck, "Guided Self-Scheduling", 1987).
template <int64_t TILE_OF, typename Number, typename Product>
static inline void by_runs(const AnychipLinear& w, int64_t rows, int64_t panels, AnychipTeam team,
                           const Product& product) {
    const int64_t all = ceil_div(rows, BLOCK) * panels;
    int64_t mine = next_task(team);
    for (int64_t run = 0, first = 0, end; first < all; ++run, first = end) {
        end = first + ceil_div(all - first, 2 * team.all);
        if (run != mine) continue;
        for (int64_t at = first; at < end;) {
            const int64_t row = at / panels * BLOCK, from = at % panels, to = least(panels, from + end - at);
            walk<TILE_OF, Number>(w, {row, least(rows, row + BLOCK), from, to, 0}, product);
            at += to - from;
        }
        mine = next_task(team);
    }
}

// Calls product(row, count, place, column, y, y_stride) until every row has met every panel of its weight: for `count`
// rows, at most TILE_OF, from `row` on, the panel that is the place-th of all that are packed and whose first output is
// `column`, and where the results go. Few rows: each thread reads its own part of the weight, once.
template <int64_t TILE_OF, typename Number, typename Product>
static inline void by_panels(const AnychipLinear& w, AnychipTeam team, const Product& product) {
    const int64_t rows = live_rows(w.rows, w.live), tiles = ceil_div(rows, TILE_OF);
    const int64_t panels = w.activation ? w.outputs / 2 / WIDTH : ceil_div(w.outputs, WIDTH);
    if (w.starts)
        by_groups<TILE_OF, Number>(w, panels, team, product);
    else if (rows > BLOCK)
        by_runs<TILE_OF, Number>(w, rows, panels, team, product);
    else if (panels >= 4 * team.all || panels >= tiles)
        share(panels, team, [&](int64_t from, int64_t to) {
            walk<TILE_OF, Number>(w, {0, rows, from, to, 0}, product);
        });
    else
        share(tiles, team, [&](int64_t first, int64_t end) {
            walk<TILE_OF, Number>(w, {first * TILE_OF, least(rows, end * TILE_OF), 0, panels, 0}, product);
        });
}

}  // namespace ANYCHIP_ISA
