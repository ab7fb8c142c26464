// Many tokens of a sequence: tiles of query rows (tokens times the query heads of one KV head) pass over tiles of
// places, with a running maximum and sum for each row (Dao et al., "FlashAttention-2", arXiv:2307.08691). Tokens of
// several sequences meet the places of a prefix in common together (as in Juravsky et al., "Hydragen",
// arXiv:2402.05099). Each row is computed as it would be alone.
#include <math.h>

#include "attention.h"
#include "kept.h"
#include "linear.h"
#include "threads.h"

namespace ANYCHIP_ISA {

static_assert(PLACES % WIDTH == 0, "tiles of places are whole panels");

// Lane j of row i changes places with lane i of row j: blocks of ever more lanes do, in pairs of rows.
template <int32_t SPAN = 1>
static inline void transpose(Vec rows[LANES]) {
    if constexpr (SPAN < LANES) {
#pragma GCC unroll 16
        for (int64_t i = 0; i < LANES; ++i) {
            if (i & SPAN) continue;
            const Vec a = rows[i], b = rows[i + SPAN];
            rows[i] = __builtin_shuffle(a, b, Shuffle::LOW<SPAN>);
            rows[i + SPAN] = __builtin_shuffle(a, b, Shuffle::HIGH<SPAN>);
        }
        transpose<2 * SPAN>(rows);
    }
}

// c = a b, or c = keep c + a b, for ROWS rows of a: [., depth] and one panel of b: [depth, WIDTH]. keep: [ROWS] or null.
template <int ROWS>
static void multiply(const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t depth, float* c,
                     int64_t c_stride, const float* keep) {
    Vec total[ROWS][VECTORS] = {};
    for (int64_t i = 0; i < depth; ++i) {
        Vec row[VECTORS];
        for (int v = 0; v < VECTORS; ++v) row[v] = load(b + i * b_stride + v * LANES);
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; ++r)
            for (int v = 0; v < VECTORS; ++v) total[r][v] += fill(a[r * a_stride + i]) * row[v];
    }
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r)
        for (int v = 0; v < VECTORS; ++v) {
            float* at = c + r * c_stride + v * LANES;
            store(at, keep ? keep[r] * load(at) + total[r][v] : total[r][v]);
        }
}

typedef void (*Multiply)(const float*, int64_t, const float*, int64_t, int64_t, float*, int64_t, const float*);
static const Multiply MULTIPLY[] = {nullptr,      multiply<1>, multiply<2>, multiply<3>,  multiply<4>,
                                    multiply<5>,  multiply<6>,
#if ANYCHIP_TILE == 12
                                    multiply<7>,  multiply<8>, multiply<9>, multiply<10>, multiply<11>,
                                    multiply<12>
#endif
};

namespace {

template <typename Number>
struct Tiles {
    const AnychipAttention& w;
    int64_t width;  // v_dim, rounded up to whole panels
    // Of this thread: rows of queries, keys [panels of PLACES][head_dim][WIDTH], values [panels of v_dim][PLACES][WIDTH],
    // scores [rows][PLACES], sums of values [rows][width], and each row's maximum and sum, with room for LANES more.
    float *queries, *keys, *values, *scores, *out, *top, *total;

    Tiles(const AnychipAttention& work, float* scratch) : w(work), width(ceil_div(work.v_dim, WIDTH) * WIDTH) {
        queries = scratch;
        keys = queries + ANYCHIP_JOINED_ROWS * w.head_dim;
        values = keys + PLACES * w.head_dim;
        scores = values + PLACES * width;
        out = scores + ANYCHIP_JOINED_ROWS * PLACES;
        top = out + ANYCHIP_JOINED_ROWS * width;
        total = top + ANYCHIP_JOINED_ROWS + LANES;
    }

    // Places of a sequence that are fetched to the second-level cache, `rows` before each product: their keys, then their
    // values.
    struct Coming {
        const AnychipAttention& w;
        int64_t s, head, first, count, rows = 0, next = 0;

        void fetch() {
            int64_t item = 0;
            of_kind(w.kept, [&](auto kind) { item = sizeof kind; });
            for (const int64_t end = least(2 * count, next + rows); next < end; ++next) {
                const Spot spot(w, s, head, first + next % count);
                const int64_t bytes = (next < count ? w.head_dim : w.v_dim) * item;
                const char* row = static_cast<const char*>(next < count ? w.keys : w.values) + spot.row * bytes;
                for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(row + i, 0, 2);
            }
        }
    };

    // The query heads of one KV head, for the tokens of all parts: first the places that these have in common, once for
    // all, then each part's own.
    void run(int64_t head, const Part* parts, int64_t count) const {
        int64_t common = count > 1 ? parts[0].position : 0;
        for (int64_t p = 1; p < count; ++p) common = least(common, in_common(w, parts[0], parts[p]));
        for (int64_t p = 0; p < count; ++p) take_queries(head, parts[p]);
        for (int64_t r = 0; r < ANYCHIP_JOINED_ROWS + LANES; ++r) top[r] = -INFINITY, total[r] = 0;
        // What part p meets from `place` on, or the part behind it.
        const auto coming = [&](int64_t p, int64_t place) -> Coming {
            if (place >= parts[p].last() && p + 1 < count) place = common, ++p;
            return {w, parts[p].s, head, place, least(PLACES, parts[p].last() - place)};
        };
        for (int64_t place = 0; place < common; place += PLACES)
            meet(head, parts, count, place, PLACES, place == 0, coming(0, place + PLACES));
        for (int64_t p = 0; p < count; ++p) {
            const int64_t start = first_seen(w, parts[p].position), last = parts[p].last();
            for (int64_t place = common > 0 ? common : start; place < last; place += PLACES)
                meet(head, parts + p, 1, place, least(PLACES, last - place), place == start, coming(p, place + PLACES));
            give(head, parts[p]);
        }
    }

    // The parts' rows meet places place..place + found. first: they have met none.
    void meet(int64_t head, const Part* parts, int64_t count, int64_t place, int64_t found, bool first,
              Coming coming) const {
        const Part& end = parts[count - 1];
        const int64_t columns = ceil_div(found, WIDTH) * WIDTH, from = parts[0].row, rows = end.row + end.rows(w) - from;
        float keep[ANYCHIP_JOINED_ROWS + LANES];
        coming.rows = ceil_div(2 * coming.count, ceil_div(rows, TILE) * (columns + width) / WIDTH);
        of_kind(w.kept, [&](auto kind) { take_places<decltype(kind)>(parts[0].s, head, place, found, columns); });
        const auto seen_by = [&](int64_t r) { return count > 1 ? columns : seen(parts[0], r, place, columns); };
        for (int64_t column = 0; column < columns; column += WIDTH)
            by_tiles(rows, coming, [&](int64_t r, int64_t tile) {
                if (seen_by(r + tile) > column)
                    MULTIPLY[tile](queries + (from + r) * w.head_dim, w.head_dim, keys + column * w.head_dim, WIDTH,
                                   w.head_dim, scores + (from + r) * PLACES + column, PLACES, nullptr);
            });
        for (int64_t p = 0; p < count; ++p) soften(parts[p], place, columns, keep);
        for (int64_t column = 0; column < width; column += WIDTH)
            by_tiles(rows, coming, [&](int64_t r, int64_t tile) {
                MULTIPLY[tile](scores + (from + r) * PLACES, PLACES, values + column * PLACES, WIDTH, seen_by(r + tile),
                               out + (from + r) * width + column, width, first ? nullptr : keep + from + r);
            });
    }

    // How many of `columns` places from `place` on the part's first `rows` rows see.
    int64_t seen(const Part& part, int64_t rows, int64_t place, int64_t columns) const {
        const int64_t behind = part.position + ceil_div(rows, w.heads / w.kv_heads) - place;
        return behind < 0 ? 0 : least(behind, columns);
    }

    void take_queries(int64_t head, const Part& part) const {
        const int64_t group = w.heads / w.kv_heads, size = group * w.head_dim;
        for (int64_t t = part.first; t < part.end; ++t) {
            const int64_t token = w.starts[part.s] + t;
            const Number* q = static_cast<const Number*>(w.q) + (token * w.heads + head * group) * w.head_dim;
            float* to = queries + part.row * w.head_dim + (t - part.first) * size;
            for (int64_t i = 0; i < size; i += LANES)
                store_part(to + i, load_part(q + i, size - i) * w.scale, size - i);
        }
    }

    // Places first..first + count, and zeros up to `columns`, whole panels: keys transposed, so that a panel's row is
    // one dimension of WIDTH places.
    template <typename Kept>
    void take_places(int64_t s, int64_t head, int64_t first, int64_t count, int64_t columns) const {
        const Kept *k = static_cast<const Kept*>(w.keys), *v = static_cast<const Kept*>(w.values);
        int64_t row[LANES], last = 0;
        for (int64_t j = 0; j < columns; j += LANES) {
            const int64_t found = least(LANES, count - j);
            for (int64_t l = 0; l < found;) {
                const Spot spot(w, s, head, first + j + l);
                for (int64_t end = least(found, l + spot.left), next = spot.row; l < end; ++l) row[l] = last = next++;
            }
            for (int64_t l = found > 0 ? found : 0; l < LANES; ++l) row[l] = last;  // nobody sees what comes of them
            take_keys(k, row, keys + j / WIDTH * WIDTH * w.head_dim + j % WIDTH);
            take_values(v, row, found, values + j * WIDTH);
        }
    }

    template <typename Kept>
    void take_keys(const Kept* pages, const int64_t* row, float* to) const {
        int64_t i = 0;
        for (; i + LANES <= w.head_dim; i += LANES)
            turn(row, to + i * WIDTH, LANES, [=, this](int64_t r) { return load(pages + r * w.head_dim + i); });
        const int64_t left = w.head_dim - i;
        if (left > 0)
            turn(row, to + i * WIDTH, left, [=, this](int64_t r) { return load_part(pages + r * w.head_dim + i, left); });
    }

    // LANES rows' `count` numbers, each number of theirs a row of `to`.
    template <typename Load>
    void turn(const int64_t* row, float* to, int64_t count, const Load& part_of) const {
        Vec part[LANES];
#pragma GCC unroll 16
        for (int64_t l = 0; l < LANES; ++l) {
            part[l] = part_of(row[l]);
            if (w.key_scales) part[l] *= w.key_scales[row[l]];
        }
        transpose(part);
#pragma GCC unroll 16
        for (int64_t l = 0; l < LANES; ++l)
            if (l < count) store(to + l * WIDTH, part[l]);
    }

    template <typename Kept>
    void take_values(const Kept* pages, const int64_t* row, int64_t found, float* to) const {
        for (int64_t l = 0; l < LANES; ++l, to += WIDTH) {
            const Kept* from = pages + row[l] * w.v_dim;
            const int64_t size = l < found ? w.v_dim : 0;
            for (int64_t i = 0; i < width; i += LANES) {
                Vec part = i < size ? load_part(from + i, size - i) : Vec{};
                if constexpr (SCALED<Kept>) part *= w.value_scales[row[l]];
                store(to + i / WIDTH * WIDTH * PLACES + i % WIDTH, part);
            }
        }
    }

    // Calls product(row, count) for all rows.
    template <typename Product>
    static void by_tiles(int64_t rows, Coming& coming, const Product& product) {
        for (int64_t r = 0; r < rows; r += TILE) {
            coming.fetch();
            product(r, least(TILE, rows - r));
        }
    }

    // Scores of a part's rows and `columns` places from `first` on to probabilities relative to each row's maximum so far.
    // keep: what the rows' sums are to be scaled by.
    void soften(const Part& part, int64_t first, int64_t columns, float* keep) const {
        const int64_t rows = part.rows(w);
        for (int64_t r = 0; r < rows; r += LANES) {
            // What a tile multiplies that ends behind these rows.
            const int64_t meant = seen(part, least(rows, r + LANES + TILE), first, columns);
            soften_rows(part, r, least(LANES, rows - r), first, ceil_div(meant, LANES) * LANES, keep + part.row + r);
        }
    }

    // `count` of them, at most LANES, from the part's r-th on. What lies in the other lanes stays as it is.
    void soften_rows(const Part& part, int64_t r, int64_t count, int64_t first, int64_t columns, float* keep) const {
        const int64_t group = w.heads / w.kv_heads;
        float *of_rows = scores + (part.row + r) * PLACES, *tops = top + part.row + r, *totals = total + part.row + r;
        Vec parts[LANES];
        for (int64_t l = 0; l < count; ++l) {
            const int64_t own = part.position + (r + l) / group;
            parts[l] = scale_row(of_rows + l * PLACES, first_seen(w, own) - first, own + 1 - first, columns);
        }
        for (int64_t l = count; l < LANES; ++l) parts[l] = fill(-INFINITY);
        const Vec before = load(tops), highest = larger(maxima(parts), before);
        const Vec shift = highest == -INFINITY ? Vec{} : highest;  // nothing was seen yet
        const Vec kept = exponential(before - shift);
        for (int64_t l = 0; l < count; ++l) {
            parts[l] = Vec{};
            float* row = of_rows + l * PLACES;
            for (int64_t i = 0; i < columns; i += LANES) {
                const Vec p = exponential(load(row + i) - shift[l]);
                parts[l] += p;
                store(row + i, p);
            }
        }
        for (int64_t l = count; l < LANES; ++l) parts[l] = Vec{};
        store(keep, kept);
        store(tops, highest);
        store(totals, load(totals) * kept + sums(parts));
    }

    // One row's scores, those of places from..to, which it sees, and -infinity for the others -> their maxima.
    Vec scale_row(float* row, int64_t from, int64_t to, int64_t columns) const {
        Vec best = fill(-INFINITY);
        for (int64_t i = 0; i < columns; i += LANES) {
            Vec s = load(row + i);
            if (w.softcap > 0) s = capped(s, w.softcap);
            if (i < from || i + LANES > to) {
                const Ints place = Shuffle::ROTATED<0> + static_cast<int32_t>(i);
                s = (place >= static_cast<int32_t>(from)) & (place < static_cast<int32_t>(to)) ? s : fill(-INFINITY);
            }
            best = larger(s, best);
            store(row + i, s);
        }
        return best;
    }

    void give(int64_t head, const Part& part) const {
        const int64_t group = w.heads / w.kv_heads, rows = part.rows(w);
        for (int64_t r = 0, row = part.row; r < rows; ++r, ++row) {
            const int64_t token = w.starts[part.s] + part.first + r / group;
            Number* to = static_cast<Number*>(w.out) + token * w.out_stride + (head * group + r % group) * w.v_dim;
            for (int64_t i = 0; i < w.v_dim; i += LANES)
                store_part(to + i, load(out + row * width + i) / total[row], w.v_dim - i);
        }
    }
};

}  // namespace

template <typename Number>
void prefill(const void* arguments, AnychipTeam team) {
    const AnychipAttention& w = *static_cast<const AnychipAttention*>(arguments);
    const int64_t decodes = w.task_first[w.counts[3]], end = w.task_first[w.counts[1]], tasks = end - decodes;
    const Tiles<Number> tiles(w, static_cast<float*>(w.scratch) + team.me * w.scratch_stride);
    // One KV head after another, whose places a cache may hold. The last tokens of a sequence first: they see the most
    // places, and short tasks at the end keep threads even.
    Part parts[ANYCHIP_JOINED_ROWS];
    for (int64_t i = next_task(team); i < tasks * w.kv_heads; i = next_task(team)) {
        int64_t task = end - 1 - i % tasks, count = 0;
        if (w.task_order[task] < 0) continue;  // taken with the one before
        do {
            parts[count] = Part(w, task);
            parts[count].row = count > 0 ? parts[count - 1].row + parts[count - 1].rows(w) : 0;
            ++count, ++task;
        } while (task < end && w.task_order[task] < 0);
        tiles.run(i / tasks, parts, count);
    }
}

template void prefill<float>(const void*, AnychipTeam);
template void prefill<Bfloat16>(const void*, AnychipTeam);
template void prefill<Float16>(const void*, AnychipTeam);

}  // namespace ANYCHIP_ISA
