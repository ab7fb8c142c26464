// Products with packed weights.
#pragma once

#include "simd.h"

#if ANYCHIP_LANES == 16 || defined(__aarch64__)
#define ANYCHIP_TILE 12
#else
#define ANYCHIP_TILE 6
#endif

namespace ANYCHIP_ISA {

constexpr int64_t VECTORS = 2;              // of one panel's row
constexpr int64_t WIDTH = VECTORS * LANES;  // outputs of a panel
constexpr int64_t TILE = ANYCHIP_TILE;      // rows whose sums fit the registers, beside a panel's row
constexpr int64_t BLOCK = 96;               // rows that stay in the second-level cache while panels pass

struct Bfloat16;

template <typename Weight>
constexpr int64_t PAIR = 1;  // inputs that lie together in a panel
template <>
constexpr int64_t PAIR<Bfloat16> = 2;

}  // namespace ANYCHIP_ISA
