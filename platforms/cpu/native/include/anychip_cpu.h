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

/* Attention over pages: keys [pages, kv_heads, page_size, head_dim], values [pages, kv_heads, page_size, v_dim], of one
 * layer. q: [tokens, heads, head_dim], out: [tokens, heads, v_dim], both contiguous. Query head h reads KV head
 * h / (heads / kv_heads). A token sees its own and earlier places, `window` of them if it is not 0. */
typedef struct {
    const float* q;
    float* out;
    const float* keys;
    const float* values;
    float* scratch;
    const int32_t* pages;         /* [sequences, pages_stride] */
    const int32_t* lengths;       /* [sequences], with this step's tokens */
    const int32_t* starts;        /* [sequences + 1] first token of each sequence */
    const int32_t* task_first;    /* [sequences + 1] first task of each sequence */
    const int32_t* task_sequence; /* [tasks] */
    const int32_t* first_chunk;   /* decode: [sequences] the first chunk that is read, of ANYCHIP_DECODE_CHUNK places */
    int64_t sequences;
    int64_t heads;
    int64_t kv_heads;
    int64_t head_dim;
    int64_t v_dim;
    int64_t page_size;
    int64_t pages_stride;
    int64_t window;
    int64_t scratch_stride; /* prefill: floats of one thread's scratch */
    float scale;
    float softcap; /* 0: none */
} AnychipAttention;

/* A decode task is a chunk of this many places, in a sequence of one token; there may be 64 query heads to a KV head.
 * scratch: [tasks, heads, v_dim + 2]. */
#define ANYCHIP_DECODE_CHUNK 256

/* A prefill task is this many rows / (heads / kv_heads) tokens of a sequence. scratch, for each thread:
 * ANYCHIP_PREFILL_ROWS * (head_dim + v + 66) + 64 * (head_dim + v), v = v_dim rounded up to a multiple of 32. */
#define ANYCHIP_PREFILL_ROWS 96

/* Inputs of x that share a scale, where the weight has one for all of an output's inputs. */
#define ANYCHIP_INPUT_GROUP 128

/* What comes before attention: RMSNorm of each head of q and k (q_norm, k_norm: [head_dim], or null), rotation by
 * cosine and sine [tokens, head_dim], the sine's first half negated (or null), and the writing of k and v. */
typedef struct {
    const float* q; /* [tokens, heads * head_dim], and likewise k and v */
    const float* k;
    const float* v;
    float* out; /* q, ready: [tokens, heads, head_dim] */
    float* keys;
    float* values;
    const int32_t* slots; /* [tokens] page * page_size + place */
    const float* cosine;
    const float* sine;
    const float* q_norm;
    const float* k_norm;
    int64_t q_stride;
    int64_t k_stride;
    int64_t v_stride;
    int64_t tokens;
    int64_t heads;
    int64_t kv_heads;
    int64_t head_dim;
    int64_t v_dim;
    int64_t page_size;
    float eps;
} AnychipPrepare;

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

    /* weight: [size], y: [rows, size]. total = x + residual, y = its norm, all contiguous. */
    void (*rms_norm_f32)(const float* x, int64_t x_stride, int64_t rows, int64_t size, const float* weight, float eps,
                         float* y, int64_t threads);
    void (*add_rms_norm_f32)(const float* x, const float* residual, int64_t rows, int64_t size, const float* weight,
                             float eps, float* y, float* total, int64_t threads);

    /* y = silu(gate) * up, or gelu's tanh form. */
    void (*gated_f32)(const float* gate, int64_t gate_stride, const float* up, int64_t up_stride, int64_t rows,
                      int64_t size, int64_t gelu, float* y, int64_t threads);

    void (*prepare_f32)(const AnychipPrepare* work, int64_t threads);
    void (*decode_f32)(const AnychipAttention* work, int64_t threads);
    void (*prefill_f32)(const AnychipAttention* work, int64_t threads);

    /* The same products in bfloat16 (its bits), with sums in float32 and inputs in pairs: packed
     * [ceil(outputs / width), ceil(inputs / 2), width, 2], of 4-byte alignment. */
    void (*pack_bf16)(const uint16_t* weight, int64_t outputs, int64_t inputs, uint16_t* packed, int64_t threads);
    void (*linear_bf16)(const uint16_t* x, int64_t x_stride, int64_t rows, const uint16_t* packed,
                        const uint16_t* bias, int64_t outputs, int64_t inputs, uint16_t* y, int64_t y_stride,
                        int64_t threads);

    /* The same products in float32 with weights of 8 or 4 bits: whole numbers times a scale for every `group` inputs of
     * an output (a multiple of 8), or with 8 bits for all of them where group is 0. With p = inputs rounded up to a multiple of 8:
     * packed [ceil(outputs / width), p / 4, width, 4] holds a number + 128 in a byte; with 4 bits
     * [ceil(outputs / width), p / 8, width, 4] holds a number + 8 in half a byte, four inputs in the low halves and the
     * next four in the high ones. scales (bfloat16's bits): [ceil(outputs / width), groups, width].
     * x becomes whole numbers too, with a scale for each group of a row, of ANYCHIP_INPUT_GROUP inputs where group is
     * 0; a row that is not finite gives NaN. scratch, 4-byte aligned: rows * (8 * x's groups + inputs + 128) bytes. */
    void (*pack_int)(const float* weight, int64_t outputs, int64_t inputs, int64_t bits, int64_t group,
                     uint8_t* packed, uint16_t* scales, int64_t threads);
    void (*linear_int)(const float* x, int64_t x_stride, int64_t rows, const uint8_t* packed, const uint16_t* scales,
                       const float* bias, int64_t outputs, int64_t inputs, int64_t bits, int64_t group, float* y,
                       int64_t y_stride, void* scratch, int64_t threads);
} AnychipKernels;

/* The instruction sets that this processor can run, best first, separated by spaces. */
const char* anychip_cpu_isas(void);

/* Null where the processor cannot run it, or where it was not built. */
const AnychipKernels* anychip_cpu_kernels(const char* isa);

/* sizeof(AnychipKernels): a caller made for another table must not read this one. */
int64_t anychip_cpu_table_bytes(void);

/* Asks for huge pages behind [start, start + bytes), before it is written. Best effort. */
void anychip_cpu_advise(void* start, int64_t bytes);

#ifdef __cplusplus
}
#endif
#endif
