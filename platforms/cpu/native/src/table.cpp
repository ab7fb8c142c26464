// The kernels of one instruction set.
#include "attention.h"
#include "elementwise.h"
#include "halves.h"
#include "linear.h"
#include "moe.h"
#include "sampling.h"

#define ANYCHIP_JOIN(a, b) a##b
#define ANYCHIP_TABLE(isa) ANYCHIP_JOIN(anychip_table_, isa)
#define ANYCHIP_TEXT_OF(isa) #isa
#define ANYCHIP_TEXT(isa) ANYCHIP_TEXT_OF(isa)

extern const AnychipKernels ANYCHIP_TABLE(ANYCHIP_ISA);

namespace ANYCHIP_ISA {

const AnychipKernels TABLE = {
    .name = ANYCHIP_TEXT(ANYCHIP_ISA),
    .width = WIDTH,
    .pack_f32 = pack<float>,
    .linear_f32 = linear_f32,
    .rms_norm_f32 = rms_norm<float>,
    .rms_norm_bf16 = rms_norm<Bfloat16>,
    .rms_norm_f16 = rms_norm<Float16>,
    .gated_f32 = gated<float>,
    .gated_bf16 = gated<Bfloat16>,
    .gated_f16 = gated<Float16>,
    .gather = gather,
    .embedding_f32 = embedding<float>,
    .embedding_bf16 = embedding<Bfloat16>,
    .embedding_f16 = embedding<Float16>,
    .rope_angles = rope_angles,
    .logits_f32 = logits<float>,
    .logits_bf16 = logits<Bfloat16>,
    .logits_f16 = logits<Float16>,
    .sample = sample,
    .route_f32 = route<float>,
    .route_bf16 = route<Bfloat16>,
    .route_f16 = route<Float16>,
    .combine_f32 = combine<float>,
    .combine_bf16 = combine<Bfloat16>,
    .combine_f16 = combine<Float16>,
    .prepare_f32 = prepare<float>,
    .prepare_bf16 = prepare<Bfloat16>,
    .prepare_f16 = prepare<Float16>,
    .plan = plan,
    .decode_f32 = decode<float>,
    .decode_bf16 = decode<Bfloat16>,
    .decode_f16 = decode<Float16>,
    .prefill_f32 = prefill<float>,
    .prefill_bf16 = prefill<Bfloat16>,
    .prefill_f16 = prefill<Float16>,
    .pack_bf16 = pack_bf16,
    .linear_bf16 = linear_bf16,
    .pack_f16 = pack<Float16>,
    .linear_f16 = linear_f16,
    .pack_int = pack_int,
    .linear_int_f32 = linear_int<float>,
    .linear_int_bf16 = linear_int<Bfloat16>,
    .linear_int_f16 = linear_int<Float16>,
};

}  // namespace ANYCHIP_ISA

const AnychipKernels ANYCHIP_TABLE(ANYCHIP_ISA) = ANYCHIP_ISA::TABLE;
