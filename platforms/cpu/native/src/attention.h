// Ragged paged attention.
#pragma once

#include "simd.h"

namespace ANYCHIP_ISA {

constexpr int64_t CHUNK = ANYCHIP_DECODE_CHUNK;
constexpr int64_t GROUP_MAX = 64;  // query heads of one KV head

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
