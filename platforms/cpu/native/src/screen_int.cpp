// The largest of each row of x W^T, exact, where most outputs are computed from the upper six of a weight's 8 bits.
//
// With w = 4 u + l and x as whole numbers, sum(w x) = 4 sum(u x) + 1.5 sum(x) + sum((l - 1.5) x), and the last is at most
// 1.5 sum(|x|), so an output that is further than that below a result that is known is neither the largest nor as large.
// Every thread finds the roughly largest of its panels and computes that one's panel first, then each of its own that may
// hold a larger one than any thread found.
#include "candidates.h"
#include "linear_int_tile.h"

namespace ANYCHIP_ISA {

constexpr float SURE = 1.001f;  // what a bound is multiplied by, as it is rounded
constexpr int64_t MOST = DOT_INSTRUCTION ? FEW : 2;  // rows whose sums do not take longer than the memory

// Of a UNIT of a panel's inputs the upper six bits lie in three rows, each as large as four inputs' bytes: rows 0 and 1
// have the lower four of the six, two inputs' to a byte, and row 2 the two above them, four inputs' to a byte. Input
// 4 k + i of the unit is the k-th in byte i of its output.
constexpr int64_t UNIT = 16;
constexpr int64_t FOUR = 4 * WIDTH;  // bytes of four inputs

struct Upper {
    Bits rows[3][VECTORS];

    explicit Upper(const uint8_t* from) {
        for (int row = 0; row < 3; ++row)
            for (int v = 0; v < VECTORS; ++v)
                rows[row][v] = *reinterpret_cast<const LooseBits*>(from + row * FOUR + v * LANES * 4);
    }

    // Of inputs 4 k to 4 k + 3, as numbers under 64.
    Bits four(int k, int v) const {
        const Bits halves = rows[k / 2][v] >> k % 2 * 4;
        const Bits rest = k < 2 ? rows[2][v] << (4 - 2 * k) : rows[2][v] >> (2 * k - 4);
        return (halves & 0x0f0f0f0fu) | (rest & 0x30303030u);
    }
};

// Adds the rough products of group g of ROWS rows and one panel to `sums`, see `add_products`.
template <int ROWS>
static __attribute__((noinline)) void add_rough(Vec (*sums)[VECTORS], const Inputs& x, const uint8_t* panel, int64_t g,
                                                int64_t inputs) {
    const int64_t first = g * x.step, place = x.place(0, g);
    const int8_t* from = x.bytes + first;
    const int8_t* const end = from + least(inputs - first, x.step);
    const uint8_t* w = panel + first / UNIT * 3 * FOUR;
    Ints whole[ROWS][VECTORS] = {};
    for (; from < end; from += UNIT, w += 3 * FOUR) {
        fetch_ahead<ROWS, 3 * FOUR>(w);
        const Upper six(w);
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) {
            FewBits::Weight four[VECTORS];
            for (int v = 0; v < VECTORS; ++v) four[v] = FewBits::weight(six.four(k, v));
#pragma GCC unroll 4
            for (int r = 0; r < ROWS; ++r) {
                int32_t word;
                __builtin_memcpy(&word, from + r * x.stride + 4 * k, sizeof word);
                const FewBits::Input input = FewBits::input(word);
                for (int v = 0; v < VECTORS; ++v) whole[r][v] = FewBits::dot(whole[r][v], four[v], input);
            }
        }
    }
    for (int r = 0; r < ROWS; ++r) {
        const float scale = x.scales[place + r], start = -126.5f * static_cast<float>(x.sums[place + r]);
        for (int v = 0; v < VECTORS; ++v)
            sums[r][v] += (4.0f * __builtin_convertvector(whole[r][v], Vec) + start) * scale;
    }
}

template <int ROWS>
static void rough_tile(const Inputs& x, const Panel& panel, float* y, int64_t y_stride) {
    Vec sums[ROWS][VECTORS] = {};
    for (int64_t g = 0; g < x.groups; ++g) add_rough<ROWS>(sums, x, panel.bytes, g, panel.inputs);
    finish(panel, false, sums, ROWS, y, 0, y_stride);
}

static_assert(ANYCHIP_FEW_ROWS == 4);
constexpr void (*ROUGH[])(const Inputs&, const Panel&, float*, int64_t) = {nullptr, rough_tile<1>, rough_tile<2>,
                                                                           rough_tile<3>, rough_tile<4>};
constexpr Tile EXACT[] = {nullptr, tile<8, false, 1>, tile<8, false, 2>, tile<8, false, 3>, tile<8, false, 4>};

struct Largest {
    const AnychipLargest& all;
    const AnychipLinear& w;
    const Inputs x;  // at most MOST rows

    void run(AnychipTeam team) const {
        const int64_t panels = ceil_div(w.outputs, WIDTH);
        float* mine = all.known + team.me * FEW;
        for (int64_t r = 0; r < x.rows; ++r) mine[r] = -INFINITY;
        share(panels, team, [&](int64_t first, int64_t end) {
            for (int64_t p = first; p < end; ++p) estimate(p);
            for (int64_t r = 0; r < x.rows; ++r) mine[r] = largest_known(r, first, end);
        });
        barrier(team);
        float best[FEW], reaches[FEW];
        for (int64_t r = 0; r < x.rows; ++r) {
            best[r] = all.known[r], reaches[r] = reach(r);
            for (int64_t t = 1; t < team.all; ++t) {
                const float theirs = all.known[t * FEW + r];
                if (best[r] == best[r] && !(theirs < best[r])) best[r] = theirs;
            }
        }
        share(panels, team, [&](int64_t first, int64_t end) {
            for (int64_t p = first; p < end; ++p) {
                bool wanted = false;
                for (int64_t r = 0; r < x.rows; ++r) wanted = wanted || may_hold_largest(r, p, best[r], reaches[r]);
                if (wanted) compute(p);
            }
        });
    }

    Panel panel(const uint8_t* bytes, int64_t p) const {
        return {bytes, w.scales + p * WIDTH, nullptr, w.outputs - p * WIDTH, w.inputs, Kind::float32};
    }

    float* results(int64_t r, int64_t p) const { return static_cast<float*>(w.y) + r * w.y_stride + p * WIDTH; }

    void estimate(int64_t p) const {
        ROUGH[x.rows](x, panel(all.upper + p * (w.inputs / UNIT) * 3 * FOUR, p), results(0, p), w.y_stride);
    }

    // As `linear_int` does.
    void compute(int64_t p) const {
        const uint8_t* bytes = static_cast<const uint8_t*>(w.packed) + p * w.inputs * WIDTH;
        EXACT[x.rows](x, 0, panel(bytes, p), results(0, p), 0, w.y_stride);
    }

    // The most that a rough result is off, for a scale of one: what is left out, and the rounding of both kinds of sums,
    // whose groups are at most 128 sum(|x|) each. It is infinite where such a sum may be.
    float reach(int64_t r) const {
        float total = 0;
        for (int64_t g = 0; g < x.groups; ++g) {
            int32_t sum = 0;
            for (int64_t i = g * x.step; i < least(w.inputs, (g + 1) * x.step); ++i) {
                const int32_t one = x.bytes[r * x.stride + i];
                sum += one < 0 ? -one : one;
            }
            total += static_cast<float>(sum) * x.scales[x.place(r, g)];
        }
        return SURE * 128.0f * total * ((1.5f + static_cast<float>(x.groups + 4) * 0x1p-15f) / 128.0f);
    }

    // The largest result of row r that is known, NaN where nothing can be left out. Of this thread's panels.
    float largest_known(int64_t r, int64_t first, int64_t end) const {
        const Best rough = best_of(results(r, first), least(w.outputs, end * WIDTH) - first * WIDTH);
        const int64_t p = first + rough.token / WIDTH;
        if (!rough.ordered) return NAN;
        compute(p);
        const Best best = best_of(results(r, p), least(WIDTH, w.outputs - p * WIDTH));
        return best.ordered ? best.logit : NAN;
    }

    bool may_hold_largest(int64_t r, int64_t p, float best, float reach) const {
        Ints found = {};
        for (int v = 0; v < VECTORS && p * WIDTH + v * LANES < w.outputs; ++v) {
            const Vec rough = load_part(results(r, p) + v * LANES, w.outputs - p * WIDTH - v * LANES);
            const Vec scale = scale_vector(w.scales + p * WIDTH + v * LANES);
            found |= (Ints) !(rough + (scale * reach + TINY) < best);  // the least numbers have lost their bits
        }
        return any(found);
    }
};

template <typename Number>
void linear_int(const void* arguments, AnychipTeam team);

void largest_int(const void* arguments, AnychipTeam team) {
    const AnychipLargest& all = *static_cast<const AnychipLargest*>(arguments);
    const AnychipLinear& w = all.product;
    const int64_t rows = live_rows(w.rows, w.live);
    if (rows == 0 || rows > MOST) return linear_int<float>(&w, team);
    const Inputs x = inputs_of(w.scratch, rows, w.inputs, w.group, team.me);
    quantize_rows(static_cast<const float*>(w.x), w.x_stride, rows, w.inputs, x, {0, 1, team.meeting, nullptr});
    Largest{all, w, x}.run(team);
}

}  // namespace ANYCHIP_ISA
