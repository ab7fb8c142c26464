// The kernels of one instruction set.
#include "attention.h"
#include "elementwise.h"
#include "halves.h"
#include "linear.h"

#define ANYCHIP_JOIN(a, b) a##b
#define ANYCHIP_TABLE(isa) ANYCHIP_JOIN(anychip_table_, isa)
#define ANYCHIP_TEXT_OF(isa) #isa
#define ANYCHIP_TEXT(isa) ANYCHIP_TEXT_OF(isa)

extern const AnychipKernels ANYCHIP_TABLE(ANYCHIP_ISA);

const AnychipKernels ANYCHIP_TABLE(ANYCHIP_ISA) = {
    .name = ANYCHIP_TEXT(ANYCHIP_ISA),
    .width = ANYCHIP_ISA::WIDTH,
    .pack_f32 = ANYCHIP_ISA::pack_f32,
    .linear_f32 = ANYCHIP_ISA::linear_f32,
    .rms_norm_f32 = ANYCHIP_ISA::rms_norm_f32,
    .gated_f32 = ANYCHIP_ISA::gated_f32,
    .gather = ANYCHIP_ISA::gather,
    .embedding_f32 = ANYCHIP_ISA::embedding_f32,
    .rope_angles = ANYCHIP_ISA::rope_angles,
    .greedy = ANYCHIP_ISA::greedy,
    .prepare_f32 = ANYCHIP_ISA::prepare<float>,
    .prepare_bf16 = ANYCHIP_ISA::prepare<ANYCHIP_ISA::Bfloat16>,
    .prepare_f16 = ANYCHIP_ISA::prepare<ANYCHIP_ISA::Float16>,
    .plan = ANYCHIP_ISA::plan,
    .decode_f32 = ANYCHIP_ISA::decode<float>,
    .decode_bf16 = ANYCHIP_ISA::decode<ANYCHIP_ISA::Bfloat16>,
    .decode_f16 = ANYCHIP_ISA::decode<ANYCHIP_ISA::Float16>,
    .prefill_f32 = ANYCHIP_ISA::prefill<float>,
    .prefill_bf16 = ANYCHIP_ISA::prefill<ANYCHIP_ISA::Bfloat16>,
    .prefill_f16 = ANYCHIP_ISA::prefill<ANYCHIP_ISA::Float16>,
    .pack_bf16 = ANYCHIP_ISA::pack_bf16,
    .linear_bf16 = ANYCHIP_ISA::linear_bf16,
    .pack_int = ANYCHIP_ISA::pack_int,
    .linear_int = ANYCHIP_ISA::linear_int,
};
