#include "elementwise.h"

#include <math.h>

#include "threads.h"

namespace ANYCHIP_ISA {

static inline float rms_scale(const float* x, int64_t size, float eps) {
    Vec squares = {};
    for (int64_t i = 0; i < size; i += LANES) {
        const Vec v = load_part(x + i, size - i);
        squares += v * v;
    }
    return 1.0f / sqrtf(sum(squares) / static_cast<float>(size) + eps);
}

// y may be x.
static inline void normalize(const float* x, int64_t size, const float* weight, float eps, float* y) {
    const Vec scale = fill(rms_scale(x, size, eps));
    for (int64_t i = 0; i < size; i += LANES)
        store_part(y + i, load_part(x + i, size - i) * scale * load_part(weight + i, size - i), size - i);
}

void rms_norm_f32(const void* arguments, AnychipTeam team) {
    const AnychipNorm& w = *static_cast<const AnychipNorm*>(arguments);
    const float *x = static_cast<const float*>(w.x), *residual = static_cast<const float*>(w.residual);
    float *y = static_cast<float*>(w.y), *total = static_cast<float*>(w.total);
    const int64_t rows = live_rows(w.rows, w.live);
    share(rows, worth(rows * w.size, team), [=](int64_t first, int64_t end) {
        for (int64_t r = first; r < end; ++r) {
            const float* row = x + r * w.x_stride;
            if (residual) {
                float* out = total + r * w.size;
                for (int64_t i = 0; i < w.size; i += LANES) {
                    const int64_t left = w.size - i;
                    store_part(out + i, load_part(row + i, left) + load_part(residual + r * w.size + i, left), left);
                }
                row = out;
            }
            normalize(row, w.size, w.weight, w.eps, y + r * w.size);
        }
    });
}

static inline Vec silu(Vec x) { return x / (1.0f + exponential(-x)); }

// 0.5 x (1 + tanh(u)) = x / (1 + e^(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3) (arXiv:1606.08415)
static inline Vec gelu_tanh(Vec x) {
    return x / (1.0f + exponential(x * (1.0f + 0.044715f * x * x) * -1.5957691216057308f));
}

void gated_f32(const void* arguments, AnychipTeam team) {
    const AnychipGated& w = *static_cast<const AnychipGated*>(arguments);
    const float *gate = static_cast<const float*>(w.gate), *up = static_cast<const float*>(w.up);
    float* y = static_cast<float*>(w.y);
    const int64_t rows = live_rows(w.rows, w.live);
    share(rows, worth(4 * rows * w.size, team), [=](int64_t first, int64_t end) {
        for (int64_t r = first; r < end; ++r)
            for (int64_t i = 0; i < w.size; i += LANES) {
                const int64_t left = w.size - i;
                const Vec x = load_part(gate + r * w.gate_stride + i, left);
                const Vec activated = w.gelu ? gelu_tanh(x) : silu(x);
                store_part(y + r * w.size + i, activated * load_part(up + r * w.up_stride + i, left), left);
            }
    });
}

// One head: normalized where there is a weight, rotated where there are angles (x[i] turned with x[i + size / 2]).
static inline void turn(const float* x, int64_t size, const float* weight, float eps, const float* cosine,
                        const float* sine, float* y) {
    const float scale = weight ? rms_scale(x, size, eps) : 1.0f;
    const int64_t half = size / 2;
    const int64_t block = cosine ? half : size;
    for (int64_t i = 0; i < block; i += LANES) {
        const int64_t left = block - i;
        Vec a = load_part(x + i, left);
        if (weight) a = a * scale * load_part(weight + i, left);
        if (!cosine) {
            store_part(y + i, a, left);
            continue;
        }
        Vec b = load_part(x + half + i, left);
        if (weight) b = b * scale * load_part(weight + half + i, left);
        const Vec turned_a = a * load_part(cosine + i, left) + b * load_part(sine + i, left);
        const Vec turned_b = b * load_part(cosine + half + i, left) + a * load_part(sine + half + i, left);
        store_part(y + i, turned_a, left);
        store_part(y + half + i, turned_b, left);
    }
}

void prepare_f32(const void* arguments, AnychipTeam team) {
    const AnychipPrepare& w = *static_cast<const AnychipPrepare*>(arguments);
    const float *q = static_cast<const float*>(w.q), *k = static_cast<const float*>(w.k);
    const float* v = static_cast<const float*>(w.v);
    float *out = static_cast<float*>(w.out), *keys = static_cast<float*>(w.keys);
    float* values = static_cast<float*>(w.values);
    const int64_t size = w.head_dim, tokens = live_rows(w.tokens, w.live);
    share(tokens, worth(tokens * (w.heads + 2 * w.kv_heads) * size, team), [=](int64_t first, int64_t end) {
        for (int64_t t = first; t < end; ++t) {
            const float* cosine = w.cosine ? w.cosine + t * size : nullptr;
            const float* sine = w.sine ? w.sine + t * size : nullptr;
            for (int64_t h = 0; h < w.heads; ++h)
                turn(q + t * w.q_stride + h * size, size, w.q_norm, w.eps, cosine, sine,
                     out + (t * w.heads + h) * size);
            const int64_t page = w.slots[t] / w.page_size, place = w.slots[t] % w.page_size;
            for (int64_t h = 0; h < w.kv_heads; ++h) {
                const int64_t row = (page * w.kv_heads + h) * w.page_size + place;
                turn(k + t * w.k_stride + h * size, size, w.k_norm, w.eps, cosine, sine, keys + row * size);
                const float* from = v + t * w.v_stride + h * w.v_dim;
                for (int64_t i = 0; i < w.v_dim; ++i) values[row * w.v_dim + i] = from[i];
            }
        }
    });
}

}  // namespace ANYCHIP_ISA
