// Norms, rope, activations, rows by index, and the writing of K and V.
#pragma once

#include <math.h>

#include "halves.h"

namespace ANYCHIP_ISA {

void rms_norm_f32(const void* arguments, AnychipTeam team);
void gated_f32(const void* arguments, AnychipTeam team);

void gather(const void* arguments, AnychipTeam team);
void embedding_f32(const void* arguments, AnychipTeam team);
void rope_angles(const void* arguments, AnychipTeam team);
void greedy(const void* arguments, AnychipTeam team);

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

}  // namespace ANYCHIP_ISA
