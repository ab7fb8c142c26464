// One token each: every (sequence, chunk of places, KV head) is a task, and the parts of a sequence are put together by
// their log-sum-exp (Dao et al., "Flash-Decoding", 2023). Chunks begin at multiples of CHUNK, so that a sequence's
// result does not depend on the batch or on the number of threads. Tasks of several sequences that see the same pages
// are taken together, so that a prefix in common is read once for all of them (as in Juravsky et al., "Hydragen",
// arXiv:2402.05099); the KV heads of other tasks are, too, where there are many tasks, so that a page is read from its
// start to its end. Each head is computed as it would be alone.
#include <math.h>

#include "attention.h"
#include "kept.h"
#include "threads.h"

namespace ANYCHIP_ISA {

// What tasks that are taken together read: places first..end of KV heads head..head + heads, in the pages of sequence s.
struct Task {
    const int32_t* order;
    int64_t count, s, head, heads, first, end;
    // The (i / kv_heads)-th of `tasks`, from head i % kv_heads on, and those that go with it. One that is alone takes
    // `together` heads.
    Task(const AnychipAttention& w, int64_t i, int64_t tasks, int64_t together)
        : order(w.task_order + i / w.kv_heads), count(1), head(i % w.kv_heads) {
        for (const int64_t left = tasks - i / w.kv_heads; count < left && order[count] < 0;) ++count;
        s = w.task_sequence[part(0)], heads = count > 1 ? 1 : least(together, w.kv_heads - head);
        const int64_t length = w.lengths[s], seen = first_seen(w, length - 1);
        const int64_t chunk = part(0) - w.task_first[s] + seen / CHUNK;
        first = chunk * CHUNK > seen ? chunk * CHUNK : seen, end = least(length, (chunk + 1) * CHUNK);
    }
    // Where the n-th one's result goes, of all tasks.
    int64_t part(int64_t n) const { return order[n] < 0 ? ~order[n] : order[n]; }
};

// A way through a task's keys or values, LANES rows of a head at a time, as they lie in memory: page by page, and there
// head by head.
struct Walk {
    int64_t count, heads, run;          // places, heads, and places of a head before those of the next one
    int64_t from = 0, head = 0, j = 0;  // where the run of places begins, and where the walk is
    Walk(const AnychipAttention& w, const Task& task)
        : count(task.end - task.first), heads(task.heads), run(ceil_div(w.page_size, LANES) * LANES) {}
    // Whether there was another.
    bool step() {
        j += LANES;
        if (j < least(from + run, count)) return true;
        if (++head == heads) head = 0, from += run;
        j = from;
        return j < count;
    }
};

// Keys or values of LANES places from `place` on, one after another, and with whole numbers their scales. Those behind
// the task's end may be anything.
template <typename Kept>
struct Rows {
    const Kept* at;
    const float* scales;
    Kept copied[LANES * ANYCHIP_HEAD_MAX];
    float copied_scales[LANES];

    Rows(const AnychipAttention& w, const Task& t, const Walk& walk, const void* pages, const float* of, int64_t size) {
        const Kept* from = static_cast<const Kept*>(pages);
        const int64_t head = t.head + walk.head, place = t.first + walk.j;
        const Spot spot(w, t.s, head, place);
        if (spot.left >= LANES) {
            at = from + spot.row * size;
            if constexpr (SCALED<Kept>) scales = of + spot.row;
            return;
        }
        for (int64_t j = 0; j < LANES; ++j) {
            const int64_t row = Spot(w, t.s, head, least(place + j, t.end - 1)).row;
            __builtin_memcpy(copied + j * size, from + row * size, static_cast<uint64_t>(size) * sizeof(Kept));
            if constexpr (SCALED<Kept>) copied_scales[j] = of[row];
        }
        at = copied, scales = copied_scales;
    }
};

// Rows that GROUP heads take at once, so that each (head, row) has a lane: LANES over GROUP rounded up to 1, 2 or 4.
constexpr int64_t rows_of(int group) { return LANES / (group == 1 ? 1 : group == 2 ? 2 : 4); }

// What is read once goes past the second-level cache, which has better things to keep.
static inline void fetch(const void* line) { __builtin_prefetch(line, 0, 0); }

// The n-th of as many parts of LANES rows, into the second-level cache: heads that take several passes fetch some before
// each, as all at once would keep what the passes read themselves waiting.
template <typename Kept>
static void fetch_part(const Kept* rows, int64_t size, int64_t n, int64_t parts) {
    const int64_t lines = ceil_div(LANES * size * static_cast<int64_t>(sizeof(Kept)), 64);
    for (int64_t i = lines * n / parts; i < lines * (n + 1) / parts; ++i)
        __builtin_prefetch(reinterpret_cast<const char*>(rows) + i * 64, 0, 2);
}

// GROUP heads of q times rows_of(GROUP) rows, a head's products side by side. Meanwhile as many rows are fetched from
// `ahead` on, in the order in which they lie: in that of the sums, down the rows, memory gives less.
template <typename Kept, int GROUP, bool FETCH>
static Vec dots(const float* q, const Kept* rows, const Kept* ahead, int64_t size) {
    constexpr int64_t ROWS = rows_of(GROUP), LINE = 64 / sizeof(Kept);
    Vec total[LANES];
#pragma GCC unroll 16
    for (int64_t j = 0; j < LANES; ++j) total[j] = Vec{};
    // Nothing picks a sum by a number that is not a constant, so they stay in registers.
    const auto add = [&](const Vec(&part)[GROUP], const auto& row_at) {
#pragma GCC unroll 16
        for (int64_t r = 0; r < ROWS; ++r) {
            const Vec row = settled(row_at(rows + r * size));
#pragma GCC unroll 4
            for (int g = 0; g < GROUP; ++g) total[g * ROWS + r] += part[g] * row;
        }
    };
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) {
        Vec part[GROUP];
        for (int g = 0; g < GROUP; ++g) part[g] = load(q + g * size + i);
        if (FETCH && i % LINE == 0)
#pragma GCC unroll 16
            for (int64_t r = 0; r < ROWS; ++r) fetch(ahead + i * ROWS + r * LINE);
        add(part, [=](const Kept* row) { return load(row + i); });
    }
    if (i < size) {
        Vec part[GROUP];
        for (int g = 0; g < GROUP; ++g) part[g] = load_part(q + g * size + i, size - i);
        add(part, [=](const Kept* row) { return load_part(row + i, size - i); });
    }
    return sums(total);
}

// q: [GROUP, size] -> scores: [GROUP, CHUNK], of LANES places. `ahead`: where the rows lie that are fetched.
template <typename Kept, int GROUP, bool FETCH>
static void score(const float* q, const Rows<Kept>& rows, const Kept* ahead, int64_t size, float* scores) {
    constexpr int64_t ROWS = rows_of(GROUP);
    for (int64_t r = 0; r < LANES; r += ROWS) {
        const Vec found = dots<Kept, GROUP, FETCH>(q, rows.at + r * size, ahead + r * size, size);
        float lanes[LANES];
        store(lanes, found);
        for (int g = 0; g < GROUP; ++g) __builtin_memcpy(scores + g * CHUNK + r, lanes + g * ROWS, 4 * ROWS);
    }
    if constexpr (SCALED<Kept>)
        for (int g = 0; g < GROUP; ++g) store(scores + g * CHUNK, load(scores + g * CHUNK) * load(rows.scales));
}

template <typename Kept, bool FETCH>
static void score_heads(int64_t heads, const float* q, const Rows<Kept>& rows, const Kept* ahead, int64_t size,
                        float* scores) {
    switch (heads) {
        case 1: return score<Kept, 1, FETCH>(q, rows, ahead, size, scores);
        case 2: return score<Kept, 2, FETCH>(q, rows, ahead, size, scores);
        case 3: return score<Kept, 3, FETCH>(q, rows, ahead, size, scores);
        default: return score<Kept, 4, FETCH>(q, rows, ahead, size, scores);
    }
}

// out[g] += sum over the rows of p[g][j] * rows[j], for GROUP heads and VECS vectors of each from `at` on. Meanwhile
// this call's part of the LANES rows from `ahead` on is fetched, unless that is null.
template <typename Kept, int GROUP, int VECS>
static void add_rows(float* out, const float* p, int64_t count, const Kept* rows, const Kept* ahead, int64_t size,
                     int64_t at) {
    Vec total[GROUP][VECS];
    for (int g = 0; g < GROUP; ++g)
        for (int v = 0; v < VECS; ++v) total[g][v] = load(out + g * size + at + v * LANES);
    for (int64_t j = 0; j < count; ++j)
        for (int v = 0; v < VECS; ++v) {
            if (ahead && v * LANES * sizeof(Kept) % 64 == 0) fetch(ahead + at * LANES + (j * VECS + v) * LANES);
            const Vec row = settled(load(rows + j * size + at + v * LANES));
            for (int g = 0; g < GROUP; ++g) total[g][v] += fill(p[g * CHUNK + j]) * row;
        }
    for (int g = 0; g < GROUP; ++g)
        for (int v = 0; v < VECS; ++v) store(out + g * size + at + v * LANES, total[g][v]);
}

template <typename Kept, int VECS>
static void add_heads(int64_t heads, float* out, const float* p, int64_t count, const Kept* rows, const Kept* ahead,
                      int64_t size, int64_t at) {
    switch (heads) {
        case 1: return add_rows<Kept, 1, VECS>(out, p, count, rows, ahead, size, at);
        case 2: return add_rows<Kept, 2, VECS>(out, p, count, rows, ahead, size, at);
        case 3: return add_rows<Kept, 3, VECS>(out, p, count, rows, ahead, size, at);
        default: return add_rows<Kept, 4, VECS>(out, p, count, rows, ahead, size, at);
    }
}

// p: [heads, CHUNK] of LANES places, `count` of them real; with whole numbers it is multiplied by their scales.
// out: [heads, size].
template <typename Kept>
static void add_values(float* out, float* p, int64_t heads, int64_t count, const Rows<Kept>& rows, const Kept* ahead,
                       int64_t size) {
    constexpr int64_t FEW = LANES == 16 ? 2 : 1;  // heads of which eight vectors stay in registers
    const int64_t whole = size / LANES * LANES;
    if constexpr (SCALED<Kept>)
        for (int64_t h = 0; h < heads; ++h) store(p + h * CHUNK, load(p + h * CHUNK) * load(rows.scales));
    for (int64_t h = 0; h < heads; h += 4) {
        const int64_t some = least(4, heads - h);
        const Kept* next = heads <= 4 ? ahead : nullptr;
        if (heads > 4) fetch_part(ahead, size, h / 4, ceil_div(heads, 4));
        const float* shares = p + h * CHUNK;
        int64_t i = 0;
        for (; some <= FEW && i + 8 * LANES <= whole; i += 8 * LANES)
            add_heads<Kept, 8>(some, out + h * size, shares, count, rows.at, next, size, i);
        for (; i + 4 * LANES <= whole; i += 4 * LANES)
            add_heads<Kept, 4>(some, out + h * size, shares, count, rows.at, next, size, i);
        for (; i < whole; i += LANES) add_heads<Kept, 1>(some, out + h * size, shares, count, rows.at, next, size, i);
    }
    for (int64_t h = 0; h < heads; ++h)
        for (int64_t j = 0; j < count; ++j)
            for (int64_t i = whole; i < size; ++i) out[h * size + i] += p[h * CHUNK + j] * widened(rows.at[j * size + i]);
}

// out += p * v
static inline void add_scaled(float* out, float p, const float* v, int64_t size) {
    for (int64_t i = 0; i < size; i += LANES) {
        const int64_t left = size - i;
        store_part(out + i, load_part(out + i, left) + p * load_part(v + i, left), left);
    }
}

// scores: [group, CHUNK] of places first..end -> probabilities relative to the largest, their sum, and that score.
static void soften(const AnychipAttention& w, float* scores, int64_t count, float* top, float* total) {
    Vec best = fill(-INFINITY);
    for (int64_t i = 0; i < count; i += LANES) {
        Vec s = load(scores + i) * w.scale;
        if (w.softcap > 0) s = capped(s, w.softcap);
        for (int64_t j = count - i; j < LANES; ++j) s[j] = -INFINITY;  // what lies behind the last score
        best = larger(s, best);
        store(scores + i, s);
    }
    *top = largest(best);
    Vec sums = {};
    for (int64_t i = 0; i < count; i += LANES) {
        const Vec p = exponential(load(scores + i) - *top);
        sums += p;
        store(scores + i, p);
    }
    *total = sum(sums);
}

// What a task reads soon: its keys, its values and then the keys of the next one, some rows ahead.
template <typename Kept>
struct Ahead {
    const AnychipAttention& w;
    const Task* tasks[3];
    const void* pages[3];
    int64_t sizes[3];
    int64_t now = 0;
    Walk walk;
    Ahead(const AnychipAttention& w, const Task& task, const Task& next)
        : w(w), tasks{&task, &task, &next}, pages{w.keys, w.values, w.keys}, sizes{w.head_dim, w.v_dim, w.head_dim},
          walk(w, task) {
        // Of what is fetched much earlier some is gone again, where rows lie a power of two apart and fall on few sets of
        // the cache.
        constexpr int64_t BYTES = 4096;
        for (int64_t n = ceil_div(BYTES, LANES * w.head_dim * static_cast<int64_t>(sizeof(Kept))); n > 0; --n) step();
    }
    void step() {
        if (!walk.step() && now < 2) walk = Walk(w, *tasks[++now]);
    }
    const Kept* at() const {
        const Task& t = *tasks[now];
        const Spot spot(w, t.s, t.head + walk.head, t.first + least(walk.j, walk.count - 1));
        return static_cast<const Kept*>(pages[now]) + spot.row * sizes[now];
    }
};

// The tasks' heads with their q: [KV heads, query heads of each and of all tasks, head_dim]. Of many query heads the
// first ones find rows in the second-level cache, the others in the first; all fetch what comes next, up to the keys of
// the tasks that this thread takes then.
template <typename Kept>
static void attend(const AnychipAttention& w, const float* q, const Task& task, const Task& next) {
    const int64_t group = w.heads / w.kv_heads, heads = task.count * group, all = task.heads * heads;
    const int64_t count = task.end - task.first;
    Ahead<Kept> ahead(w, task, next);
    // Sums lie here until they are whole: this memory is in the cache, and rows of the scratch begin anywhere.
    alignas(64) float scores[GROUP_MAX][CHUNK], sums[GROUP_MAX * ANYCHIP_HEAD_MAX];
    float tops[GROUP_MAX], totals[GROUP_MAX];
    const auto some = heads <= 4 ? score_heads<Kept, true> : score_heads<Kept, false>;
    Walk walk(w, task);
    do {
        const Rows<Kept> rows(w, task, walk, w.keys, w.key_scales, w.head_dim);
        const Kept* soon = ahead.at();
        for (int64_t h = 0; h < heads; h += 4) {
            const int64_t place = walk.head * heads + h;
            if (heads > 4) fetch_part(soon, w.head_dim, h / 4, ceil_div(heads, 4));
            some(least(4, heads - h), q + place * w.head_dim, rows, soon, w.head_dim, scores[place] + walk.j);
        }
        ahead.step();
    } while (walk.step());
    for (int64_t h = 0; h < all; ++h) soften(w, scores[h], count, tops + h, totals + h);
    for (int64_t i = 0; i < all * w.v_dim; ++i) sums[i] = 0;
    walk = Walk(w, task);
    do {
        const Rows<Kept> rows(w, task, walk, w.values, w.value_scales, w.v_dim);
        const int64_t place = walk.head * heads;
        add_values(sums + place * w.v_dim, scores[place] + walk.j, heads, least(LANES, count - walk.j), rows, ahead.at(),
                   w.v_dim);
        ahead.step();
    } while (walk.step());
    for (int64_t h = 0; h < all; ++h) {
        const int64_t head = (task.head + h / heads) * group + h % group, part = task.part(h / group % task.count);
        float* to = static_cast<float*>(w.scratch) + (part * w.heads + head) * (w.v_dim + 2);
        __builtin_memcpy(to, sums + h * w.v_dim, 4 * static_cast<uint64_t>(w.v_dim));
        to[w.v_dim] = tops[h], to[w.v_dim + 1] = totals[h];
    }
}

// The queries of the tasks as floats -> q, as `attend` takes them: of several tasks it is one KV head's.
template <typename Number>
static void take_queries(const AnychipAttention& w, const Task& task, float* q) {
    const int64_t group = w.heads / w.kv_heads, size = task.heads * group * w.head_dim;
    for (int64_t n = 0; n < task.count; ++n, q += size) {
        const int64_t token = w.starts[w.task_sequence[task.part(n)]];
        const Number* from = static_cast<const Number*>(w.q) + (token * w.heads + task.head * group) * w.head_dim;
        for (int64_t i = 0; i < size; i += LANES) store_part(q + i, load_part(from + i, size - i), size - i);
    }
}

// The parts of one head of one sequence, added up in the first one.
template <typename Number>
static void combine(const AnychipAttention& w, int64_t s, int64_t head) {
    const int64_t size = w.v_dim, step = w.heads * (size + 2), first = w.task_first[s], end = w.task_first[s + 1];
    float* parts = static_cast<float*>(w.scratch) + head * (size + 2);
    Number* out = static_cast<Number*>(w.out) + w.starts[s] * w.out_stride + head * size;
    float top = -INFINITY, total = 0;
    for (int64_t t = first; t < end; ++t) top = fmaxf(top, parts[t * step + size]);
    float* sum_of = parts + first * step;
    for (int64_t t = first; t < end; ++t) {
        const float share_of = expf(parts[t * step + size] - top);
        total += share_of * parts[t * step + size + 1];
        if (t == first)
            for (int64_t i = 0; i < size; ++i) sum_of[i] *= share_of;
        else
            add_scaled(sum_of, share_of, parts + t * step, size);
    }
    for (int64_t i = 0; i < size; i += LANES) store_part(out + i, load_part(sum_of + i, size - i) / total, size - i);
}

// KV heads of a task that is alone: as many as leave enough tasks for all threads, with what their queries take of the
// caches.
static int64_t heads_together(const AnychipAttention& w, int64_t tasks, int64_t threads) {
    constexpr int64_t ENOUGH = 16, QUERIES = 32;
    const int64_t most = least(w.kv_heads * tasks / (ENOUGH * threads), QUERIES / (w.heads / w.kv_heads));
    return most < 1 ? 1 : least(most, w.kv_heads);
}

template <typename Number>
void decode(const void* arguments, AnychipTeam team) {
    const AnychipAttention& w = *static_cast<const AnychipAttention*>(arguments);
    const int64_t decodes = w.counts[3], tasks = w.task_first[decodes], all = tasks * w.kv_heads;
    alignas(64) float q[GROUP_MAX * ANYCHIP_HEAD_MAX];
    const int64_t together = heads_together(w, tasks, team.all);
    for (int64_t i = next_task(team); i < all; i = next_task(team)) {
        if (w.task_order[i / w.kv_heads] < 0) continue;
        const Task task(w, i, tasks, together);
        if (task.count == 1 && task.head % together) continue;  // taken with the head before
        // `next`: most likely.
        int64_t later = least(i + team.all * task.heads, all - 1);
        while (w.task_order[later / w.kv_heads] < 0 && later + w.kv_heads < all) later += w.kv_heads;
        const Task next(w, later - later % w.kv_heads % together, tasks, together);
        take_queries<Number>(w, task, q);
        of_kind(w.kept, [&](auto kind) { attend<decltype(kind)>(w, q, task, next); });
    }
    barrier(team);
    share(decodes * w.heads, team, [&](int64_t first, int64_t end) {
        for (int64_t i = first; i < end; ++i) combine<Number>(w, i / w.heads, i % w.heads);
    });
}

template void decode<float>(const void*, AnychipTeam);
template void decode<Bfloat16>(const void*, AnychipTeam);
template void decode<Float16>(const void*, AnychipTeam);

}  // namespace ANYCHIP_ISA
