// Norms, rope, activations, and the writing of K and V.
#pragma once

#include "simd.h"

namespace ANYCHIP_ISA {

void rms_norm_f32(const float* x, int64_t x_stride, int64_t rows, int64_t size, const float* weight, float eps,
                  float* y, int64_t threads);
void add_rms_norm_f32(const float* x, const float* residual, int64_t rows, int64_t size, const float* weight, float eps,
                      float* y, float* total, int64_t threads);
void gated_f32(const float* gate, int64_t gate_stride, const float* up, int64_t up_stride, int64_t rows, int64_t size,
               int64_t gelu, float* y, int64_t threads);
void prepare_f32(const AnychipPrepare* work, int64_t threads);

}  // namespace ANYCHIP_ISA
