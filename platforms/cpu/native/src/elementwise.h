// Norms and activations.
#pragma once

#include <math.h>

#include "halves.h"

namespace ANYCHIP_ISA {

// 1 / sqrt(mean(x^2) + eps) (arXiv:1910.07467)
template <typename Number>
static inline float rms_scale(const Number* x, int64_t size, float eps) {
    Vec squares = {};
    for (int64_t i = 0; i < size; i += LANES) {
        const Vec v = load_part(x + i, size - i);
        squares += v * v;
    }
    return 1.0f / sqrtf(sum(squares) / static_cast<float>(size) + eps);
}

// silu: x / (1 + e^-x). gelu's tanh form: 0.5 x (1 + tanh(u)) = x / (1 + e^(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3)
// (arXiv:1606.08415)
static inline Vec activated(int64_t activation, Vec x) {
    const Vec slope = activation == ANYCHIP_SILU ? fill(-1.0f) : (1.0f + 0.044715f * x * x) * -1.5957691216057308f;
    return x / (1.0f + exponential(x * slope));
}

}  // namespace ANYCHIP_ISA
