// The kernels of one instruction set; for what it has no instructions of its own they are another's (CMakeLists.txt).
// `Number`: float, Bfloat16 or Float16.
#include "linear.h"

#define ANYCHIP_JOIN(a, b) a##b
#define ANYCHIP_TABLE(isa) ANYCHIP_JOIN(anychip_table_, isa)
#define ANYCHIP_TEXT_OF(isa) #isa
#define ANYCHIP_TEXT(isa) ANYCHIP_TEXT_OF(isa)

namespace ANYCHIP_BYTES {

struct Bfloat16;
struct Float16;

void pack_int(const void* arguments, AnychipTeam team);
template <typename Number>  // of x and y
void linear_int(const void* arguments, AnychipTeam team);
void largest_int(const void* arguments, AnychipTeam team);

}  // namespace ANYCHIP_BYTES

namespace ANYCHIP_HALVES {

void pack_bf16(const void* arguments, AnychipTeam team);
void linear_bf16(const void* arguments, AnychipTeam team);

}  // namespace ANYCHIP_HALVES

namespace ANYCHIP_OTHERS {

struct Bfloat16;
struct Float16;

template <typename Number>  // float or Float16
void pack(const void* arguments, AnychipTeam team);
template <typename Weight>  // float, Bfloat16 or Float16
void linear_f32(const void* arguments, AnychipTeam team);
void linear_f16(const void* arguments, AnychipTeam team);

template <typename Number>
void rms_norm(const void* arguments, AnychipTeam team);
template <typename Number>
void gated(const void* arguments, AnychipTeam team);
template <typename Number, typename Weight>
void embedding(const void* arguments, AnychipTeam team);
void gather(const void* arguments, AnychipTeam team);
void rope_angles(const void* arguments, AnychipTeam team);

template <typename Number>
void logits(const void* arguments, AnychipTeam team);
void sample(const void* arguments, AnychipTeam team);
template <typename Weight>
void screen(const void* arguments, AnychipTeam team);

template <typename Number>
void route(const void* arguments, AnychipTeam team);
template <typename Number>
void combine(const void* arguments, AnychipTeam team);

void plan(const void* arguments, AnychipTeam team);
template <typename Number>  // of queries and results; K and V are what the arguments say
void prepare(const void* arguments, AnychipTeam team);
template <typename Number>
void decode(const void* arguments, AnychipTeam team);
template <typename Number>
void prefill(const void* arguments, AnychipTeam team);

}  // namespace ANYCHIP_OTHERS

namespace bytes = ANYCHIP_BYTES;
namespace halves = ANYCHIP_HALVES;
namespace others = ANYCHIP_OTHERS;

extern const AnychipKernels ANYCHIP_TABLE(ANYCHIP_ISA);

const AnychipKernels ANYCHIP_TABLE(ANYCHIP_ISA) = {
    .name = ANYCHIP_TEXT(ANYCHIP_ISA),
    .width = ANYCHIP_ISA::WIDTH,
    .pack_f32 = others::pack<float>,
    .linear_f32 = others::linear_f32<float>,
    .linear_f32_bf16 = others::linear_f32<others::Bfloat16>,
    .linear_f32_f16 = others::linear_f32<others::Float16>,
    .rms_norm_f32 = others::rms_norm<float>,
    .rms_norm_bf16 = others::rms_norm<others::Bfloat16>,
    .rms_norm_f16 = others::rms_norm<others::Float16>,
    .gated_f32 = others::gated<float>,
    .gated_bf16 = others::gated<others::Bfloat16>,
    .gated_f16 = others::gated<others::Float16>,
    .gather = others::gather,
    .embedding_f32 = others::embedding<float, float>,
    .embedding_f32_bf16 = others::embedding<float, others::Bfloat16>,
    .embedding_f32_f16 = others::embedding<float, others::Float16>,
    .embedding_bf16 = others::embedding<others::Bfloat16, others::Bfloat16>,
    .embedding_f16 = others::embedding<others::Float16, others::Float16>,
    .rope_angles = others::rope_angles,
    .logits_f32 = others::logits<float>,
    .logits_bf16 = others::logits<others::Bfloat16>,
    .logits_f16 = others::logits<others::Float16>,
    .sample = others::sample,
    .screen_f32 = others::screen<float>,
    .screen_f32_bf16 = others::screen<others::Bfloat16>,
    .screen_f32_f16 = others::screen<others::Float16>,
    .route_f32 = others::route<float>,
    .route_bf16 = others::route<others::Bfloat16>,
    .route_f16 = others::route<others::Float16>,
    .combine_f32 = others::combine<float>,
    .combine_bf16 = others::combine<others::Bfloat16>,
    .combine_f16 = others::combine<others::Float16>,
    .prepare_f32 = others::prepare<float>,
    .prepare_bf16 = others::prepare<others::Bfloat16>,
    .prepare_f16 = others::prepare<others::Float16>,
    .plan = others::plan,
    .decode_f32 = others::decode<float>,
    .decode_bf16 = others::decode<others::Bfloat16>,
    .decode_f16 = others::decode<others::Float16>,
    .prefill_f32 = others::prefill<float>,
    .prefill_bf16 = others::prefill<others::Bfloat16>,
    .prefill_f16 = others::prefill<others::Float16>,
    .pack_bf16 = halves::pack_bf16,
    .linear_bf16 = halves::linear_bf16,
    .pack_f16 = others::pack<others::Float16>,
    .linear_f16 = others::linear_f16,
    .pack_int = bytes::pack_int,
    .linear_int_f32 = bytes::linear_int<float>,
    .linear_int_bf16 = bytes::linear_int<bytes::Bfloat16>,
    .linear_int_f16 = bytes::linear_int<bytes::Float16>,
    .largest_int = bytes::largest_int,
};
