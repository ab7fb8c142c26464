// How products with packed weights are shared out and ordered, whatever the weight's type.
#pragma once

#include "linear.h"
#include "threads.h"

namespace ANYCHIP_ISA {

// Rows first..end by panels from..to, which lie `before` panels on in the packed weight, as part(row, count, panel,
// place) for `count` <= tile rows from `row` on. Every panel passes over BLOCK rows at a time.
template <typename Part>
static inline void walk(int64_t first, int64_t end, int64_t from, int64_t to, int64_t before, int64_t tile,
                        const Part& part) {
    for (int64_t block = first; block < end; block += BLOCK) {
        const int64_t block_end = least(end, block + BLOCK);
        for (int64_t panel = from; panel < to; ++panel)
            for (int64_t row = block; row < block_end; row += tile)
                part(row, least(tile, block_end - row), panel, before + panel);
    }
}

// Groups of rows with a weight each. A panel costs a thread its reading, as much as READ rows, and its rows.
template <typename Part>
static inline void by_groups(const AnychipLinear& w, int64_t panels, int64_t tile, AnychipTeam team,
                             const Part& part) {
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
        walk(w.starts[g], w.starts[g + 1], from, to, g * panels, tile, part);
    }
}

// Calls part(row, count, panel, place) until every row has met every panel of its weight; `place`: where the panel lies
// in the packed weight. Few rows: each thread reads its own part of the weight, once.
template <typename Part>
static inline void by_panels(const AnychipLinear& w, int64_t tile, AnychipTeam team, const Part& part) {
    const int64_t rows = live_rows(w.rows, w.live), panels = ceil_div(w.outputs, WIDTH), tiles = ceil_div(rows, tile);
    if (w.starts)
        by_groups(w, panels, tile, team, part);
    else if (panels >= 4 * team.all || panels >= tiles)
        share(panels, team, [=](int64_t from, int64_t to) { walk(0, rows, from, to, 0, tile, part); });
    else
        share(tiles, team, [=](int64_t first, int64_t end) {
            walk(first * tile, least(rows, end * tile), 0, panels, 0, tile, part);
        });
}

}  // namespace ANYCHIP_ISA
