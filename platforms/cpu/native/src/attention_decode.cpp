// One token each: every (sequence, chunk of places, KV head) is a task, and the parts of a sequence are put together by
// their log-sum-exp (Dao et al., "Flash-Decoding", 2023). Chunks begin at multiples of CHUNK, so that a sequence's
// result does not depend on the batch or on the number of threads.
#include <math.h>

#include "attention.h"
#include "threads.h"

namespace ANYCHIP_ISA {

// The rows of LANES places, from `first` on; behind `end` the last one again.
static inline void rows_of(const AnychipAttention& w, int64_t s, int64_t head, int64_t first, int64_t end,
                           const float* base, int64_t size, const float* rows[LANES]) {
    int64_t column = first / w.page_size, place = first % w.page_size;
    const float* row = nullptr;
    for (int64_t j = 0; j < LANES; ++j, ++place) {
        if (first + j >= end) {
            rows[j] = rows[j - 1];
            continue;
        }
        if (place == w.page_size) place = 0, ++column;
        if (!row || place == 0) {
            const int64_t page = w.pages[s * w.pages_stride + column];
            row = base + ((page * w.kv_heads + head) * w.page_size + place) * size;
        }
        rows[j] = row;
        row += size;
    }
}

// q times the rows: LANES scores. Meanwhile the lines of `next` are fetched, a few at a time: the processor waits for
// no more than some twenty.
template <bool FETCH>
static Vec dots(const float* q, const float* const rows[LANES], const float* const next[LANES], int64_t size) {
    Vec total[LANES] = {};
    for (int64_t i = 0; i < size; i += LANES) {
        const int64_t left = size - i;
        const Vec part = load_part(q + i, left);
        if (left >= LANES)
#pragma GCC unroll 16
            for (int64_t j = 0; j < LANES; ++j) {
                if (FETCH) __builtin_prefetch(next[j] + i);
                total[j] += part * load(rows[j] + i);
            }
        else
            for (int64_t j = 0; j < LANES; ++j) total[j] += part * load_part(rows[j] + i, left);
    }
    return sums(total);
}

// out[g] += sum over the rows of p[g][j] * rows[j], for GROUP heads and VECS vectors of each.
template <int GROUP, int VECS>
static void add_rows(float* out, int64_t out_stride, const float* p, int64_t count, const float* const rows[LANES],
                     const float* const next[LANES], int64_t at) {
    Vec total[GROUP][VECS];
    for (int g = 0; g < GROUP; ++g)
        for (int v = 0; v < VECS; ++v) total[g][v] = load(out + g * out_stride + at + v * LANES);
    for (int64_t j = 0; j < count; ++j)
        for (int v = 0; v < VECS; ++v) {
            __builtin_prefetch(next[j] + at + v * LANES);
            const Vec row = load(rows[j] + at + v * LANES);
            for (int g = 0; g < GROUP; ++g) total[g][v] += fill(p[g * CHUNK + j]) * row;
        }
    for (int g = 0; g < GROUP; ++g)
        for (int v = 0; v < VECS; ++v) store(out + g * out_stride + at + v * LANES, total[g][v]);
}

typedef void (*AddRows)(float*, int64_t, const float*, int64_t, const float* const*, const float* const*,
                        int64_t);
static const AddRows ADD_ROWS[4][2] = {{add_rows<1, 1>, add_rows<1, 4>},
                                       {add_rows<2, 1>, add_rows<2, 4>},
                                       {add_rows<3, 1>, add_rows<3, 4>},
                                       {add_rows<4, 1>, add_rows<4, 4>}};

static void add_values(float* out, int64_t out_stride, const float* p, int64_t group, int64_t count,
                       const float* const rows[LANES], const float* const next[LANES], int64_t size) {
    const int64_t whole = size / LANES * LANES;
    for (int64_t g = 0; g < group; g += 4) {
        const AddRows* add = ADD_ROWS[least(4, group - g) - 1];
        int64_t at = 0;
        float* heads = out + g * out_stride;
        for (; at + 4 * LANES <= whole; at += 4 * LANES)
            add[1](heads, out_stride, p + g * CHUNK, count, rows, next, at);
        for (; at < whole; at += LANES) add[0](heads, out_stride, p + g * CHUNK, count, rows, next, at);
    }
    for (int64_t g = 0; g < group; ++g)
        for (int64_t j = 0; j < count; ++j)
            for (int64_t i = whole; i < size; ++i) out[g * out_stride + i] += p[g * CHUNK + j] * rows[j][i];
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

static void attend(const AnychipAttention& w, int64_t task, int64_t head) {
    const int64_t s = w.task_sequence[task], length = w.lengths[s], group = w.heads / w.kv_heads;
    const int64_t seen = first_seen(w, length - 1), chunk = task - w.task_first[s] + seen / CHUNK;
    const int64_t first = chunk * CHUNK > seen ? chunk * CHUNK : seen, end = least(length, (chunk + 1) * CHUNK);
    const float *keys = static_cast<const float*>(w.keys), *values = static_cast<const float*>(w.values);
    const float* q = static_cast<const float*>(w.q) + (w.starts[s] * w.heads + head * group) * w.head_dim;
    float scores[GROUP_MAX][CHUNK];
    const float *rows[LANES], *next[LANES];
    rows_of(w, s, head, first, end, keys, w.head_dim, next);
    for (int64_t place = first; place < end; place += LANES) {
        for (int64_t j = 0; j < LANES; ++j) rows[j] = next[j];
        if (place + LANES < end) rows_of(w, s, head, place + LANES, end, keys, w.head_dim, next);
        store(scores[0] + place - first, dots<true>(q, rows, next, w.head_dim));
        for (int64_t g = 1; g < group; ++g)
            store(scores[g] + place - first, dots<false>(q + g * w.head_dim, rows, next, w.head_dim));
    }
    float* part = static_cast<float*>(w.scratch) + (task * w.heads + head * group) * (w.v_dim + 2);
    for (int64_t g = 0; g < group; ++g) {
        float* out = part + g * (w.v_dim + 2);
        soften(w, scores[g], end - first, out + w.v_dim, out + w.v_dim + 1);
        for (int64_t i = 0; i < w.v_dim; ++i) out[i] = 0;
    }
    rows_of(w, s, head, first, end, values, w.v_dim, next);
    for (int64_t place = first; place < end; place += LANES) {
        for (int64_t j = 0; j < LANES; ++j) rows[j] = next[j];
        if (place + LANES < end) rows_of(w, s, head, place + LANES, end, values, w.v_dim, next);
        add_values(part, w.v_dim + 2, scores[0] + place - first, group, least(LANES, end - place), rows, next, w.v_dim);
    }
}

static void combine(const AnychipAttention& w, int64_t s, int64_t head) {
    const int64_t size = w.v_dim, step = w.heads * (size + 2);
    const float* parts = static_cast<const float*>(w.scratch) + head * (size + 2);
    float* out = static_cast<float*>(w.out) + (w.starts[s] * w.heads + head) * size;
    float top = -INFINITY, total = 0;
    for (int64_t t = w.task_first[s]; t < w.task_first[s + 1]; ++t) top = fmaxf(top, parts[t * step + size]);
    for (int64_t i = 0; i < size; ++i) out[i] = 0;
    for (int64_t t = w.task_first[s]; t < w.task_first[s + 1]; ++t) {
        const float share_of = expf(parts[t * step + size] - top);
        total += share_of * parts[t * step + size + 1];
        add_scaled(out, share_of, parts + t * step, size);
    }
    for (int64_t i = 0; i < size; ++i) out[i] /= total;
}

void decode_f32(const void* arguments, AnychipTeam team) {
    const AnychipAttention& w = *static_cast<const AnychipAttention*>(arguments);
    const int64_t decodes = w.counts[3], tasks = w.task_first[decodes] * w.kv_heads;
    for (int64_t i = next_task(team); i < tasks; i = next_task(team)) attend(w, i / w.kv_heads, i % w.kv_heads);
    barrier(team);
    share(decodes * w.heads, team, [&](int64_t first, int64_t end) {
        for (int64_t i = first; i < end; ++i) combine(w, i / w.heads, i % w.heads);
    });
}

}  // namespace ANYCHIP_ISA
