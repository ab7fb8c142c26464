// Norms, rope, activations, rows by index, and the writing of K and V.
#pragma once

#include "simd.h"

namespace ANYCHIP_ISA {

void rms_norm_f32(const void* arguments, AnychipTeam team);
void gated_f32(const void* arguments, AnychipTeam team);
void prepare_f32(const void* arguments, AnychipTeam team);

void gather(const void* arguments, AnychipTeam team);
void embedding_f32(const void* arguments, AnychipTeam team);
void rope_angles(const void* arguments, AnychipTeam team);
void greedy(const void* arguments, AnychipTeam team);

}  // namespace ANYCHIP_ISA
