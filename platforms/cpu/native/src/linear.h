// Products with packed weights.
#pragma once

#include "simd.h"

namespace ANYCHIP_ISA {

constexpr int64_t VECTORS = 2;                 // of one panel's row
constexpr int64_t WIDTH = VECTORS * LANES;     // outputs of a panel
constexpr int64_t TILE = LANES == 16 ? 12 : 6; // rows whose sums fit the registers, beside a panel's row
constexpr int64_t BLOCK = 96;                  // rows that stay in the second-level cache while panels pass

void pack_f32(const void* arguments, AnychipTeam team);
void linear_f32(const void* arguments, AnychipTeam team);

void pack_bf16(const void* arguments, AnychipTeam team);
void linear_bf16(const void* arguments, AnychipTeam team);

void pack_int(const void* arguments, AnychipTeam team);
void linear_int(const void* arguments, AnychipTeam team);

}  // namespace ANYCHIP_ISA
