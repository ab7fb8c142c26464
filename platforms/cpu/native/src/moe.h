// Mixture of experts: which tokens go where, and back.
#pragma once

#include "simd.h"

namespace ANYCHIP_ISA {

template <typename Number>  // float, Bfloat16 or Float16
void route(const void* arguments, AnychipTeam team);
template <typename Number>
void combine(const void* arguments, AnychipTeam team);

}  // namespace ANYCHIP_ISA
