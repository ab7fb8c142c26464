#include "elementwise.h"

#include <math.h>

#include "threads.h"

namespace ANYCHIP_ISA {

// Starting the threads costs as much as this many elements.
constexpr int64_t ALONE = 16384;

static inline int64_t worth(int64_t elements, int64_t threads) { return elements < ALONE ? 1 : threads; }

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

void rms_norm_f32(const float* x, int64_t x_stride, int64_t rows, int64_t size, const float* weight, float eps,
                  float* y, int64_t threads) {
    share(rows, worth(rows * size, threads), [=](int64_t first, int64_t end) {
        for (int64_t r = first; r < end; ++r) normalize(x + r * x_stride, size, weight, eps, y + r * size);
    });
}

void add_rms_norm_f32(const float* x, const float* residual, int64_t rows, int64_t size, const float* weight, float eps,
                      float* y, float* total, int64_t threads) {
    share(rows, worth(rows * size, threads), [=](int64_t first, int64_t end) {
        for (int64_t r = first; r < end; ++r) {
            const int64_t at = r * size;
            for (int64_t i = 0; i < size; i += LANES) {
                const int64_t left = size - i;
                store_part(total + at + i, load_part(x + at + i, left) + load_part(residual + at + i, left), left);
            }
            normalize(total + at, size, weight, eps, y + at);
        }
    });
}

static inline Vec silu(Vec x) { return x / (1.0f + exponential(-x)); }

// 0.5 x (1 + tanh(u)) = x / (1 + e^(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3) (arXiv:1606.08415)
static inline Vec gelu_tanh(Vec x) {
    return x / (1.0f + exponential(x * (1.0f + 0.044715f * x * x) * -1.5957691216057308f));
}

void gated_f32(const float* gate, int64_t gate_stride, const float* up, int64_t up_stride, int64_t rows, int64_t size,
               int64_t gelu, float* y, int64_t threads) {
    share(rows, worth(4 * rows * size, threads), [=](int64_t first, int64_t end) {
        for (int64_t r = first; r < end; ++r)
            for (int64_t i = 0; i < size; i += LANES) {
                const int64_t left = size - i;
                const Vec x = load_part(gate + r * gate_stride + i, left);
                const Vec activated = gelu ? gelu_tanh(x) : silu(x);
                store_part(y + r * size + i, activated * load_part(up + r * up_stride + i, left), left);
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

void prepare_f32(const AnychipPrepare* work, int64_t threads) {
    const AnychipPrepare w = *work;
    const int64_t size = w.head_dim, elements = w.tokens * (w.heads + 2 * w.kv_heads) * size;
    share(w.tokens, worth(elements, threads), [=](int64_t first, int64_t end) {
        for (int64_t t = first; t < end; ++t) {
            const float* cosine = w.cosine ? w.cosine + t * size : nullptr;
            const float* sine = w.sine ? w.sine + t * size : nullptr;
            for (int64_t h = 0; h < w.heads; ++h)
                turn(w.q + t * w.q_stride + h * size, size, w.q_norm, w.eps, cosine, sine,
                     w.out + (t * w.heads + h) * size);
            const int64_t page = w.slots[t] / w.page_size, place = w.slots[t] % w.page_size;
            for (int64_t h = 0; h < w.kv_heads; ++h) {
                const int64_t row = (page * w.kv_heads + h) * w.page_size + place;
                turn(w.k + t * w.k_stride + h * size, size, w.k_norm, w.eps, cosine, sine, w.keys + row * size);
                const float* v = w.v + t * w.v_stride + h * w.v_dim;
                for (int64_t i = 0; i < w.v_dim; ++i) w.values[row * w.v_dim + i] = v[i];
            }
        }
    });
}

}  // namespace ANYCHIP_ISA
