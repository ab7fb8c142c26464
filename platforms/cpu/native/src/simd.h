// Vectors of floats, as wide as the instruction set that this file is compiled for. The compiler's own vector types do
// the arithmetic (a * b + c is fused where the processor can), so nothing here is written twice.
//
// Kernel files are compiled once for each instruction set. What they define lies in the namespace ANYCHIP_ISA, and they
// use no templates or inline functions of the standard library: the linker would keep one copy for all of them.
#pragma once

#include <stdint.h>

#include "anychip_cpu.h"

#if defined(__AVX512F__)
#define ANYCHIP_LANES 16
#elif defined(__AVX2__)
#define ANYCHIP_LANES 8
#else
#define ANYCHIP_LANES 4
#endif

namespace ANYCHIP_ISA {

constexpr int64_t LANES = ANYCHIP_LANES;

typedef float Vec __attribute__((vector_size(4 * ANYCHIP_LANES)));
typedef float LooseVec __attribute__((vector_size(4 * ANYCHIP_LANES), aligned(4), may_alias));

static inline Vec load(const float* p) { return *reinterpret_cast<const LooseVec*>(p); }
static inline void store(float* p, Vec v) { *reinterpret_cast<LooseVec*>(p) = v; }
static inline Vec fill(float x) { return x - Vec{}; }

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace ANYCHIP_ISA
