// How products with packed weights are shared out and ordered, whatever the weight's type.
#pragma once

#include "linear.h"
#include "threads.h"

namespace ANYCHIP_ISA {

// Calls part(row, count, panel) for `count` <= TILE rows from `row` on, by one panel, until every row has met every
// panel. Few rows: each thread reads its own part of the weight, once. Every panel passes over BLOCK rows at a time.
template <typename Part>
static inline void by_panels(int64_t rows, int64_t outputs, AnychipTeam team, const Part& part) {
    const auto run = [=](int64_t first, int64_t end, int64_t from, int64_t to) {
        for (int64_t block = first; block < end; block += BLOCK) {
            const int64_t block_end = least(end, block + BLOCK);
            for (int64_t panel = from; panel < to; ++panel)
                for (int64_t row = block; row < block_end; row += TILE) part(row, least(TILE, block_end - row), panel);
        }
    };
    const int64_t panels = ceil_div(outputs, WIDTH), tiles = ceil_div(rows, TILE);
    if (panels >= 4 * team.all || panels >= tiles)
        share(panels, team, [=](int64_t from, int64_t to) { run(0, rows, from, to); });
    else
        share(tiles, team, [=](int64_t first, int64_t end) {
            run(first * TILE, least(rows, end * TILE), 0, panels);
        });
}

}  // namespace ANYCHIP_ISA
