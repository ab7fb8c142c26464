// Logits, and choosing tokens.
#pragma once

#include "simd.h"

namespace ANYCHIP_ISA {

template <typename Number>  // float, Bfloat16 or Float16
void logits(const void* arguments, AnychipTeam team);
void sample(const void* arguments, AnychipTeam team);

}  // namespace ANYCHIP_ISA
