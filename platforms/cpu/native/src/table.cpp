// The kernels of one instruction set.
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
};
