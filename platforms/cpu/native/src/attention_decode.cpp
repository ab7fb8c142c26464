// One token each: every (sequence, chunk of places, KV head) is a task, and the parts of a sequence are put together by
// their log-sum-exp (Dao et al., "Flash-Decoding", 2023). Chunks begin at multiples of CHUNK, so that a sequence's
// result does not depend on the batch or on the number of threads.
#include <math.h>

#include "attention.h"
#include "threads.h"

namespace ANYCHIP_ISA {

static inline float dot(const float* a, const float* b, int64_t size) {
    Vec total = {};
    for (int64_t i = 0; i < size; i += LANES) total += load_part(a + i, size - i) * load_part(b + i, size - i);
    return sum(total);
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
    const int64_t s = w.task_sequence[task], chunk = task - w.task_first[s] + w.first_chunk[s];
    const int64_t length = w.lengths[s], group = w.heads / w.kv_heads;
    const int64_t seen = first_seen(w, length - 1);
    const int64_t first = chunk * CHUNK > seen ? chunk * CHUNK : seen, end = least(length, (chunk + 1) * CHUNK);
    const float* q = w.q + (w.starts[s] * w.heads + head * group) * w.head_dim;
    float scores[GROUP_MAX][CHUNK];
    for (int64_t place = first; place < end; ++place) {
        const float* k = w.keys + row_of(w, s, head, place) * w.head_dim;
        for (int64_t g = 0; g < group; ++g) scores[g][place - first] = dot(q + g * w.head_dim, k, w.head_dim);
    }
    float* part = w.scratch + (task * w.heads + head * group) * (w.v_dim + 2);
    for (int64_t g = 0; g < group; ++g) {
        float* out = part + g * (w.v_dim + 2);
        soften(w, scores[g], end - first, out + w.v_dim, out + w.v_dim + 1);
        for (int64_t i = 0; i < w.v_dim; ++i) out[i] = 0;
    }
    for (int64_t place = first; place < end; ++place) {
        const float* v = w.values + row_of(w, s, head, place) * w.v_dim;
        for (int64_t g = 0; g < group; ++g)
            add_scaled(part + g * (w.v_dim + 2), scores[g][place - first], v, w.v_dim);
    }
}

static void combine(const AnychipAttention& w, int64_t s, int64_t head) {
    const int64_t size = w.v_dim, step = w.heads * (size + 2);
    const float* parts = w.scratch + head * (size + 2);
    float* out = w.out + (w.starts[s] * w.heads + head) * size;
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

void decode_f32(const AnychipAttention* work, int64_t threads) {
    const AnychipAttention w = *work;
    const int64_t tasks = w.task_first[w.sequences] * w.kv_heads;
#pragma omp parallel num_threads(static_cast<int>(least(threads, tasks)))
    {
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < tasks; ++i) attend(w, i / w.kv_heads, i % w.kv_heads);
#pragma omp for
        for (int64_t i = 0; i < w.sequences * w.heads; ++i) combine(w, i / w.heads, i % w.heads);
    }
}

}  // namespace ANYCHIP_ISA
