/* The C ABI of anychip's cpu kernels: one table of functions for each instruction set.
 *
 * Matrices are row-major; a "stride" is the distance of two rows in elements. Pointers need the alignment of their
 * element type only. No kernel allocates, throws or keeps a pointer.
 *
 * All kernels are called the same way: every thread of a team calls one with the same arguments and takes its share,
 * and what it writes is there after the team's next barrier. One call is a list of one command, and a whole step is a
 * list that the same threads walk through. Where arguments have `live`, a pointer, the number it points to when the
 * kernel runs says how many of the `rows` there are; null: all. */
#ifndef ANYCHIP_CPU_H
#define ANYCHIP_CPU_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct AnychipMeeting AnychipMeeting; /* what the threads of a team share, see native/src/threads.h */
typedef struct AnychipAhead AnychipAhead;     /* what this thread will read, likewise */

typedef struct {
    int64_t me;  /* this thread, from 0 */
    int64_t all; /* threads of the team */
    AnychipMeeting* meeting;
    AnychipAhead* ahead; /* null: nothing is known */
} AnychipTeam;

typedef void (*AnychipKernel)(const void* arguments, AnychipTeam team);

/* `reads`: null, or that many parts one after another, each of part_bytes, of which every thread reads its share, in
 * order: a thread that waits in a command before fetches the start of it. */
typedef struct {
    AnychipKernel kernel;
    const void* arguments;
    const void* reads;
    int64_t parts;
    int64_t part_bytes;
} AnychipCommand;

/* What pages hold. ANYCHIP_INT8: whole numbers times a float of their own for each vector,
 * its largest magnitude / 127. */
enum { ANYCHIP_FLOAT32, ANYCHIP_BFLOAT16, ANYCHIP_FLOAT16, ANYCHIP_INT8 };

/* weight: [outputs, inputs] -> packed, and with whole numbers scales. */
typedef struct {
    const void* weight;
    void* packed;
    uint16_t* scales;
    int64_t outputs;
    int64_t inputs;
    int64_t bits;
    int64_t group;
} AnychipPack;

/* Of a gated product; gelu in its tanh form. */
enum { ANYCHIP_NOT_GATED, ANYCHIP_SILU, ANYCHIP_GELU_TANH };

/* x: [rows, inputs], bias: [outputs] or null -> y: [rows, outputs]; with an activation [rows, outputs / 2], that of the
 * first half of the outputs times the second half, where a half is whole panels. With `starts`, [groups + 1]: rows
 * starts[g] up to starts[g + 1] take the g-th of `groups` packed weights, which follow each other, without bias. */
typedef struct {
    const void* x;
    const void* packed;
    const uint16_t* scales;
    const void* bias;
    void* y;
    void* scratch;
    const int32_t* live;
    const int32_t* starts;
    int64_t x_stride;
    int64_t rows;
    int64_t outputs;
    int64_t inputs;
    int64_t y_stride;
    int64_t bits;
    int64_t group;
    int64_t groups;
    int64_t activation;
} AnychipLinear;

/* weight: [size], y: [rows, size] = the norm of x, or with a residual (not null) of total = x + residual. residual and
 * total are contiguous. */
typedef struct {
    const void* x;
    const void* residual;
    const float* weight;
    void* y;
    void* total;
    const int32_t* live;
    int64_t x_stride;
    int64_t y_stride;
    int64_t rows;
    int64_t size;
    float eps;
} AnychipNorm;

/* y: [rows, size] = activation(gate) * up. */
typedef struct {
    const void* gate;
    const void* up;
    void* y;
    const int32_t* live;
    int64_t gate_stride;
    int64_t up_stride;
    int64_t y_stride;
    int64_t rows;
    int64_t size;
    int64_t activation;
} AnychipGated;

/* y[r] = x[ids[r]], rows of `size` bytes, with strides in bytes too; null ids: zeros. For `embedding` elements take the
 * place of bytes, and x is a packed weight. */
typedef struct {
    const void* x;
    const int32_t* ids;
    void* y;
    const int32_t* live;
    int64_t x_stride;
    int64_t y_stride;
    int64_t rows;
    int64_t size;
    float scale;
} AnychipGather;

/* positions: [tokens], inverse: [half] -> cosine and sine: [tokens, 2 * half], the sine's first half negated. */
typedef struct {
    const int32_t* positions;
    const float* inverse;
    float* cosine;
    float* sine;
    const int32_t* live;
    int64_t tokens;
    int64_t half;
} AnychipRope;

/* x: [rows, size], contiguous -> y: float32, softcap * tanh(x / softcap), or x where softcap is 0. y may be x. */
typedef struct {
    const void* x;
    float* y;
    const int32_t* live;
    int64_t rows;
    int64_t size;
    float softcap;
} AnychipLogits;

/* x: [rows, inputs] in float32 and the same weight twice: `packed` in panels, as a kernel of AnychipLinear reads it, and
 * in 8 bits, with which y: [rows, outputs] was made, contiguous. Then the largest of each row of y, and all that are as
 * large, become what `packed` gives, bit by bit, and all others are smaller than these. bounds: [panels, 2], the most
 * that |w - w'| and either of |w| and |w'| are in the panel, where w' is what 8 bits left of an output's weights w;
 * infinite where |w| or |w'| are less than 1e-10, of whose squares too little is left. scratch: 3 * rows floats. */
typedef struct {
    const float* x;
    const void* packed;
    const float* bounds;
    float* y;
    float* scratch;
    const int32_t* live;
    int64_t x_stride;
    int64_t rows;
    int64_t outputs;
    int64_t inputs;
} AnychipScreen;

/* A product of rows in float32 with a weight of 8 bits that has one scale for an output's inputs, a multiple of 16;
 * without bias, activation and groups of rows. More than a few rows are computed whole. upper: [ceil(outputs / width),
 * inputs / 16, 3, width, 4], the upper six bits of each byte of `packed`, laid out as native/src/screen_int.cpp says.
 * known: [threads, ANYCHIP_FEW_ROWS]. */
typedef struct {
    AnychipLinear product;
    const uint8_t* upper;
    float* known;
} AnychipLargest;

/* Tokens of logits, as `Ops.sample` of the contract says; the other arrays are those of its batch. `logprob`, `rank`
 * and the `top` likeliest, at most as many as there are, are null where they are not wanted. scratch, 8-byte aligned,
 * for each thread: ANYCHIP_SAMPLE_BYTES * vocabulary. */
typedef struct {
    const float* logits;     /* [rows, vocabulary] */
    const int32_t* sampling; /* [rows, sampling_stride]: nine words, of which seven are floats */
    const int32_t* edit_row; /* [edits], and so are the others */
    const int32_t* edit_token;
    const float* edit_value;
    const int32_t* count_row; /* [counts], and so are the others */
    const int32_t* count_token;
    const int32_t* count_output;
    const int32_t* count_seen;
    const int32_t* row_slot; /* [rows] */
    int32_t* last_token;     /* by slot */
    int32_t* tokens;         /* [rows] */
    float* logprob;
    int32_t* rank;
    int32_t* top_tokens; /* [rows, top] */
    float* top_logprobs;
    void* scratch;
    const int32_t* live;
    int64_t rows;
    int64_t vocabulary;
    int64_t logits_stride;
    int64_t sampling_stride;
    int64_t edits;
    int64_t counts;
    int64_t top;
} AnychipSample;

#define ANYCHIP_SAMPLE_BYTES 16

/* scores: [tokens, experts], contiguous or with a stride -> each token's `top` likeliest experts and their weights,
 * [tokens, top]; the first pick of each expert, starts: [experts + 1]; the token of each pick, sorted by expert, and
 * where a token's picks stand: [tokens * top]. */
typedef struct {
    const void* scores;
    int32_t* chosen;
    float* weights;
    int32_t* starts;
    int32_t* token;
    int32_t* place;
    const int32_t* live;
    int64_t scores_stride;
    int64_t tokens;
    int64_t experts;
    int64_t top;
    int64_t renormalize;
} AnychipRoute;

/* x: [tokens * top, size], by pick -> y: [tokens, size], zero behind the live ones. */
typedef struct {
    const void* x;
    const float* weights;
    const int32_t* place;
    void* y;
    const int32_t* live;
    int64_t tokens;
    int64_t top;
    int64_t size;
} AnychipCombine;

/* Attention over pages: keys [pages, kv_heads, page_size, head_dim], values [pages, kv_heads, page_size, v_dim], of one
 * layer; with ANYCHIP_INT8 scales [pages, kv_heads, page_size] of both. q: [tokens, heads, head_dim], contiguous, out:
 * [tokens, heads * v_dim]. Query head h reads KV head h / (heads / kv_heads). A token sees its own and earlier
 * places, `window` of them if it is not 0. */
typedef struct {
    const void* q;
    void* out;
    const void* keys;
    const void* values;
    const float* key_scales;
    const float* value_scales;
    void* scratch;
    const int32_t* counts;        /* [4] tokens, sequences, logit rows, decoding sequences, which come first */
    const int32_t* pages;         /* [sequences, pages_stride] */
    const int32_t* lengths;       /* [sequences], with this step's tokens */
    const int32_t* starts;        /* [sequences + 1] first token of each sequence */
    int32_t* task_first;          /* [sequences + 1] first task of each sequence; `plan` writes it */
    int32_t* task_sequence;       /* [tasks] likewise */
    int32_t* task_order;          /* [tasks] likewise: decoding sequences' in the order they are taken, then the others';
                                     ~task reads the same pages as the one before and is taken with it */
    int64_t heads;
    int64_t kv_heads;
    int64_t head_dim;
    int64_t v_dim;
    int64_t page_size;
    int64_t pages_stride;
    int64_t out_stride;
    int64_t window;
    int64_t kept; /* what keys and values are */
    int64_t scratch_stride; /* prefill: floats of one thread's scratch */
    float scale;
    float softcap; /* 0: none */
} AnychipAttention;

/* The widest head_dim and v_dim. */
#define ANYCHIP_HEAD_MAX 256

/* A decode task is a chunk of this many places, in a sequence of one token; there may be 64 query heads to a KV head.
 * Chunks that the window hides wholly are no tasks. scratch: [tasks, heads, v_dim + 2]. */
#define ANYCHIP_DECODE_CHUNK 256

/* A prefill task is this many rows / (heads / kv_heads) tokens of a sequence, and at most ANYCHIP_JOINED_ROWS are taken
 * together. scratch, for each thread: ANYCHIP_JOINED_ROWS * (head_dim + v + 66) + 64 * (head_dim + v) + 32, v = v_dim
 * rounded up to a multiple of 32. */
#define ANYCHIP_PREFILL_ROWS 96
#define ANYCHIP_JOINED_ROWS 384

/* Inputs of x that share a scale, where the weight has one for all of an output's inputs. */
#define ANYCHIP_INPUT_GROUP 128

/* So few that a product with them waits for the memory. */
#define ANYCHIP_FEW_ROWS 4

/* What comes before attention: RMSNorm of each head of q and k (q_norm, k_norm: [head_dim], or null), rotation by
 * cosine and sine [tokens, head_dim], the sine's first half negated (or null), and the writing of k and v. */
typedef struct {
    const void* q; /* [tokens, heads * head_dim], and likewise k and v */
    const void* k;
    const void* v;
    void* out; /* q, ready: [tokens, heads, head_dim] */
    void* keys;
    void* values;
    float* key_scales;
    float* value_scales;
    const int32_t* slots; /* [tokens] page * page_size + place */
    const float* cosine;
    const float* sine;
    const float* q_norm;
    const float* k_norm;
    const int32_t* live;
    int64_t q_stride;
    int64_t k_stride;
    int64_t v_stride;
    int64_t tokens;
    int64_t heads;
    int64_t kv_heads;
    int64_t head_dim;
    int64_t v_dim;
    int64_t page_size;
    int64_t kept;
    float eps;
} AnychipPrepare;

typedef struct {
    const char* name;
    /* Outputs of one panel of packed weights: packed [ceil(outputs / width), inputs, width], zeros at the end. */
    int64_t width;

    AnychipKernel pack_f32; /* AnychipPack */

    /* AnychipLinear. Sums run over inputs in order, so that a row's result does not depend on the rows beside it. */
    AnychipKernel linear_f32;
    /* The same results from a weight that pack_bf16 or pack_f16 packed: its numbers are widened as they are read. */
    AnychipKernel linear_f32_bf16;
    AnychipKernel linear_f32_f16;

    AnychipKernel rms_norm_f32; /* AnychipNorm; so in bfloat16 and float16, and likewise with the others */
    AnychipKernel rms_norm_bf16;
    AnychipKernel rms_norm_f16;
    AnychipKernel gated_f32; /* AnychipGated */
    AnychipKernel gated_bf16;
    AnychipKernel gated_f16;

    AnychipKernel gather;        /* AnychipGather, size in bytes, no scale */
    AnychipKernel embedding_f32; /* AnychipGather, x packed; times the scale */
    AnychipKernel embedding_f32_bf16; /* x packed in bfloat16, y in float32; so with float16 */
    AnychipKernel embedding_f32_f16;
    AnychipKernel embedding_bf16;
    AnychipKernel embedding_f16;
    AnychipKernel rope_angles; /* AnychipRope */
    AnychipKernel logits_f32;  /* AnychipLogits */
    AnychipKernel logits_bf16;
    AnychipKernel logits_f16;
    AnychipKernel sample; /* AnychipSample */
    AnychipKernel screen_f32; /* AnychipScreen; packed in float32, bfloat16, float16 */
    AnychipKernel screen_f32_bf16;
    AnychipKernel screen_f32_f16;

    AnychipKernel route_f32; /* AnychipRoute */
    AnychipKernel route_bf16;
    AnychipKernel route_f16;
    AnychipKernel combine_f32; /* AnychipCombine */
    AnychipKernel combine_bf16;
    AnychipKernel combine_f16;

    /* With numbers of each kind in q, k, v and out. */
    AnychipKernel prepare_f32, prepare_bf16, prepare_f16; /* AnychipPrepare */
    AnychipKernel plan; /* AnychipAttention: the tasks of decode and prefill, once for all layers of a kind */
    AnychipKernel decode_f32, decode_bf16, decode_f16;    /* AnychipAttention: the sequences that decode */
    AnychipKernel prefill_f32, prefill_bf16, prefill_f16; /* AnychipAttention: the others */

    /* The same products in bfloat16 (its bits), with sums in float32 and inputs in pairs: packed
     * [ceil(outputs / width), ceil(inputs / 2), width, 2], of 4-byte alignment. */
    AnychipKernel pack_bf16;   /* AnychipPack */
    AnychipKernel linear_bf16; /* AnychipLinear */

    /* The same products in float16, with sums in float32, packed like float32. scratch: float [rows,
     * inputs + 16]. */
    AnychipKernel pack_f16;   /* AnychipPack */
    AnychipKernel linear_f16; /* AnychipLinear */

    /* The same products with weights of 8 or 4 bits: whole numbers times a scale for every `group` inputs of an output
     * (a multiple of 8), or with 8 bits for all of them where group is 0. With p = inputs rounded up to a multiple of
     * 8: packed [ceil(outputs / width), p / 4, width, 4] holds a number + 128 in a byte; with 4 bits
     * [ceil(outputs / width), p / 8, width, 4] holds a number + 8 in half a byte, four inputs in the low halves and the
     * next four in the high ones. scales (bfloat16's bits): [ceil(outputs / width), groups, width].
     * x becomes whole numbers too, with a scale for each group of a row, of ANYCHIP_INPUT_GROUP inputs where group is
     * 0; a row that is not finite gives NaN. scratch, 4-byte aligned: rows * (8 * x's groups + inputs + 128) bytes; up
     * to ANYCHIP_FEW_ROWS take that much for each thread. */
    AnychipKernel pack_int;       /* AnychipPack */
    AnychipKernel linear_int_f32; /* AnychipLinear; x and y in float32, bfloat16, float16; the bias in float32 */
    AnychipKernel linear_int_bf16;
    AnychipKernel linear_int_f16;

    /* AnychipLargest. Only the largest of each row of y, and all that are as large, are what linear_int_f32 gives, bit
     * by bit; all others are smaller than these. */
    AnychipKernel largest_int;
} AnychipKernels;

/* Runs the commands in order on `threads` OpenMP threads, with a barrier behind each. */
void anychip_cpu_run(const AnychipCommand* commands, int64_t count, int64_t threads);

/* The instruction sets that this processor can run, best first, separated by spaces. */
const char* anychip_cpu_isas(void);

/* Null where the processor cannot run it, or where it was not built. */
const AnychipKernels* anychip_cpu_kernels(const char* isa);

/* Bytes of AnychipKernels, of AnychipCommand and of each kind of arguments, a space behind each: a caller that has
 * others was made for another library, and must not call this one. */
const char* anychip_cpu_sizes(void);

/* Asks for huge pages behind [start, start + bytes), before it is written. Best effort. */
void anychip_cpu_advise(void* start, int64_t bytes);

#ifdef __cplusplus
}
#endif
#endif
