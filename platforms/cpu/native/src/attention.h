// Ragged paged attention.
#pragma once

#include "simd.h"

namespace ANYCHIP_ISA {

constexpr int64_t CHUNK = ANYCHIP_DECODE_CHUNK;
constexpr int64_t GROUP_MAX = 64;  // query heads of one KV head
constexpr int64_t PLACES = 64;     // that a prefill task meets at once

// Where a place of sequence `s` lies: a row of its KV head's keys or values, and how many more rows its page has.
struct Spot {
    int64_t row, left;
    Spot(const AnychipAttention& w, int64_t s, int64_t head, int64_t place) {
        // A division of 32 bits is much faster.
        const uint32_t size = static_cast<uint32_t>(w.page_size), number = static_cast<uint32_t>(place);
        const int64_t page = w.pages[s * w.pages_stride + number / size], within = number % size;
        row = (page * w.kv_heads + head) * w.page_size + within;
        left = w.page_size - within;
    }
};

// The first place that the token at `position` sees.
static inline int64_t first_seen(const AnychipAttention& w, int64_t position) {
    return w.window > 0 && position >= w.window ? position - w.window + 1 : 0;
}

// The first of places from..end that sequences a and b have in different pages, or `end`.
static inline int64_t same_until(const AnychipAttention& w, int64_t a, int64_t b, int64_t from, int64_t end) {
    const int32_t *of_a = w.pages + a * w.pages_stride, *of_b = w.pages + b * w.pages_stride;
    int64_t page = from / w.page_size;
    while (page * w.page_size < end && of_a[page] == of_b[page]) ++page;
    return least(end, page * w.page_size);
}

// Tokens first..end of sequence s, which a prefill task takes; the first one's position; and the first of their rows,
// a token's query heads of one KV head after another, where several tasks are taken together.
struct Part {
    int64_t s, first, end, position, row = 0;
    Part() = default;
    Part(const AnychipAttention& w, int64_t task) : s(w.task_sequence[task]) {
        const int64_t step = ANYCHIP_PREFILL_ROWS / (w.heads / w.kv_heads), tokens = w.starts[s + 1] - w.starts[s];
        first = (task - w.task_first[s]) * step, end = least(first + step, tokens);
        position = w.lengths[s] - tokens + first;
    }
    int64_t rows(const AnychipAttention& w) const { return (end - first) * (w.heads / w.kv_heads); }
    int64_t last() const { return position + end - first; }  // behind the places that it sees
};

// Leading places in the same pages that all tokens of two parts have before them, as whole PLACES.
static inline int64_t in_common(const AnychipAttention& w, const Part& a, const Part& b) {
    if (first_seen(w, a.position) > 0 || first_seen(w, b.position) > 0) return 0;
    return same_until(w, a.s, b.s, 0, least(a.position, b.position)) / PLACES * PLACES;
}

// tanh, to a few units in the last place: 1 - 2 / (1 + e^(2u)) cancels near zero, where a polynomial (Cephes' tanhf)
// takes its place.
static inline Vec hyperbolic_tangent(Vec u) {
    const Vec z = u * u;
    Vec p = fill(-5.70498872745e-3f);
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    const Vec near = p * z * u + u, far = 1.0f - 2.0f / (1.0f + exponential(2.0f * u));
    return z < 0.390625f ? near : far;
}

static inline Vec capped(Vec x, float softcap) { return softcap * hyperbolic_tangent(x / softcap); }

}  // namespace ANYCHIP_ISA
