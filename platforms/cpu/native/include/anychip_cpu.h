/* The C ABI of anychip's cpu kernels: one table of functions for each instruction set.
 *
 * Matrices are row-major; a "stride" is the distance of two rows in elements. Pointers need the alignment of their
 * element type only. No function allocates, throws or keeps a pointer. `threads` is the number of OpenMP threads. */
#ifndef ANYCHIP_CPU_H
#define ANYCHIP_CPU_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const char* name;
    /* Outputs of one panel of packed weights: packed [ceil(outputs / width), inputs, width], zeros at the end. */
    int64_t width;

    /* weight: [outputs, inputs] -> packed. */
    void (*pack_f32)(const float* weight, int64_t outputs, int64_t inputs, float* packed, int64_t threads);

    /* x: [rows, inputs], bias: [outputs] or null -> y: [rows, outputs]. Sums run over inputs in order, so that a row's
     * result does not depend on the rows beside it. */
    void (*linear_f32)(const float* x, int64_t x_stride, int64_t rows, const float* packed, const float* bias,
                       int64_t outputs, int64_t inputs, float* y, int64_t y_stride, int64_t threads);
} AnychipKernels;

/* The instruction sets that this processor can run, best first, separated by spaces. */
const char* anychip_cpu_isas(void);

/* Null where the processor cannot run it, or where it was not built. */
const AnychipKernels* anychip_cpu_kernels(const char* isa);

/* Asks for huge pages behind [start, start + bytes), before it is written. Best effort. */
void anychip_cpu_advise(void* start, int64_t bytes);

#ifdef __cplusplus
}
#endif
#endif
