// The largest of each row of x W^T, exact, where most outputs are computed in 8 bits alone.
//
// 8 bits leave x' of a row x and w' of an output's weights w, and
//     |x.w - x'.w'| = |x.(w - w') + (x - x').w'| <= |x| |w - w'| + |x - x'| |w'|     (Cauchy and Schwarz),
// so an output whose rough result is further than that below a result that is known is neither the largest nor as large,
// as norms rule vectors out in the search for large inner products (Teflioudi et al., "LEMP", 2015). The panel with the
// roughly largest is computed first, then each that may hold another.
#include <math.h>

#include "candidates.h"
#include "linear_tile.h"

namespace ANYCHIP_ISA {

constexpr float SURE = 1.001f;   // what norms are multiplied by, as they are rounded
constexpr float SMALL = 1e-10f;  // squares of numbers that matter beside a norm of less may be zero

// `best`: a row's largest of the outputs that are computed, NaN where nothing can be left out.
struct Known {
    float best, norm, error;  // |x| and the most that |x - x'| is
};

template <typename Weight>
struct Screen {
    const AnychipScreen& w;
    int64_t rows;
    Known* known;  // [rows]

    void run(AnychipTeam team) const {
        share(rows, team, [&](int64_t first, int64_t end) {
            for (int64_t r = first; r < end; ++r) known[r] = start(r);
        });
        barrier(team);
        share(ceil_div(w.outputs, WIDTH), team, [&](int64_t first, int64_t end) {
            for (int64_t panel = first; panel < end; ++panel) settle(panel);
        });
    }

    Known start(int64_t r) const {
        const Best rough = best_of(w.y + r * w.outputs, w.outputs);
        Known row = norms(w.x + r * w.x_stride);
        row.best = NAN;
        if (!rough.ordered || row.norm < SMALL) return row;
        const int64_t column = rough.token / WIDTH * WIDTH;
        compute(r, 1, column / WIDTH);
        const Best best = best_of(w.y + r * w.outputs + column, least(WIDTH, w.outputs - column));
        if (best.ordered && __builtin_isfinite(best.logit)) row.best = best.logit;
        return row;
    }

    // A scale is a group's largest magnitude / 127, and half of it is as far as rounding takes a number, which goes no
    // further than to zero.
    Known norms(const float* x) const {
        float norm = 0, error = 0;
        for (int64_t g = 0; g < w.inputs; g += ANYCHIP_INPUT_GROUP) {
            const int64_t count = least(ANYCHIP_INPUT_GROUP, w.inputs - g);
            Vec squares = {}, most = {};
            for (int64_t i = 0; i < count; i += LANES) {
                const Vec v = load_part(x + g + i, count - i);
                squares += v * v, most = larger(v < 0.0f ? -v : v, most);
            }
            const float all = sum(squares), half = SURE * largest(most) / 254.0f;
            const float rounded = static_cast<float>(count) * half * half;
            norm += all, error += rounded < all ? rounded : all;
        }
        return {0, SURE * sqrtf(norm), SURE * sqrtf(error)};
    }

    // Outputs of a panel, of `count` rows from r on.
    void compute(int64_t r, int64_t count, int64_t panel) const {
        const int64_t size = ceil_div(w.inputs, PAIR<Weight>) * PAIR<Weight> * WIDTH, column = panel * WIDTH;
        const Weight* weights = static_cast<const Weight*>(w.packed) + panel * size;
        for (const int64_t end = r + count; r < end; r += TILE)
            Tiles<float, Weight>::OF[least(TILE, end - r)](w.x + r * w.x_stride, w.x_stride, weights, nullptr,
                                                           w.outputs - column, w.inputs, w.y + r * w.outputs + column,
                                                           w.outputs);
    }

    bool may_hold_largest(int64_t r, int64_t panel) const {
        const float* bounds = w.bounds + 2 * panel;
        const Known& row = known[r];
        // In float32 the sums of both kinds together are off by less than `rounding` * |x| |w|: 2^-24 for each product and
        // for each addition of the exact one, and for a few of each group, of |x'| <= 2 |x|, of the rough one.
        const float rounding = static_cast<float>(w.inputs + w.inputs / 16 + 16) * 0x1p-23f;
        const float off = row.norm * (bounds[0] + rounding * bounds[1]) + row.error * bounds[1];
        const Vec low = fill(row.best - off);
        Ints found = {};
        for (int64_t i = panel * WIDTH; i < least(w.outputs, (panel + 1) * WIDTH); i += LANES)
            found |= (Ints) !(load_part(w.y + r * w.outputs + i, w.outputs - i) < low);
        return any(found);
    }

    void settle(int64_t panel) const {
        int64_t wanted = 0;
        for (int64_t r = 0; r < rows; ++r) wanted += may_hold_largest(r, panel);
        if (2 * wanted > rows) return compute(0, rows, panel);
        for (int64_t r = 0; wanted > 0 && r < rows; ++r)
            if (may_hold_largest(r, panel)) compute(r, 1, panel), --wanted;
    }
};

template <typename Weight>
void screen(const void* arguments, AnychipTeam team) {
    const AnychipScreen& w = *static_cast<const AnychipScreen*>(arguments);
    Screen<Weight>{w, live_rows(w.rows, w.live), reinterpret_cast<Known*>(w.scratch)}.run(team);
}

template void screen<float>(const void*, AnychipTeam);
template void screen<Bfloat16>(const void*, AnychipTeam);
template void screen<Float16>(const void*, AnychipTeam);

}  // namespace ANYCHIP_ISA
