// Products with packed weights.
#pragma once

#include "simd.h"

namespace ANYCHIP_ISA {

constexpr int64_t VECTORS = 2;                 // of one panel's row
constexpr int64_t WIDTH = VECTORS * LANES;     // outputs of a panel
constexpr int64_t TILE = LANES == 16 ? 12 : 6; // rows whose sums fit the registers, beside a panel's row
constexpr int64_t BLOCK = 96;                  // rows that stay in the second-level cache while panels pass

void pack_f32(const float* weight, int64_t outputs, int64_t inputs, float* packed, int64_t threads);
void linear_f32(const float* x, int64_t x_stride, int64_t rows, const float* packed, const float* bias,
                int64_t outputs, int64_t inputs, float* y, int64_t y_stride, int64_t threads);

void pack_bf16(const uint16_t* weight, int64_t outputs, int64_t inputs, uint16_t* packed, int64_t threads);
void linear_bf16(const uint16_t* x, int64_t x_stride, int64_t rows, const uint16_t* packed, const uint16_t* bias,
                 int64_t outputs, int64_t inputs, uint16_t* y, int64_t y_stride, int64_t threads);

void pack_int(const float* weight, int64_t outputs, int64_t inputs, int64_t bits, int64_t group, uint8_t* packed,
              uint16_t* scales, int64_t threads);
void linear_int(const float* x, int64_t x_stride, int64_t rows, const uint8_t* packed, const uint16_t* scales,
                const float* bias, int64_t outputs, int64_t inputs, int64_t bits, int64_t group, float* y,
                int64_t y_stride, void* scratch, int64_t threads);

}  // namespace ANYCHIP_ISA
