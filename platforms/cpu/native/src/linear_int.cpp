// y = x W^T + b with weights of 8 or 4 bits and x in 8 bits.
//
// Weights are whole numbers times a scale for each output, or for each `group` of its inputs. They are kept without
// sign, shifted by 128 or 8; x is made whole numbers in -127..127 times a scale for each group of a row's inputs. The
// sum of (w + shift) * x is then off by shift times the sum of x, which does not depend on the output, so that is what
// a sum starts from. Sums of a group are whole numbers and exact, and groups are added in order, in float32.
#include "linear_int.h"

namespace ANYCHIP_ISA {

constexpr int64_t AHEAD = 2048;              // bytes that a panel is fetched ahead
constexpr int64_t ALONE = 16384;             // elements of x that are not worth starting the threads for
constexpr int64_t STEP = 8;                  // inputs that rows and groups are whole multiples of
constexpr float MAGIC = 12582912.0f;         // 1.5 * 2^23: adding it rounds to a whole number, in the low bits
constexpr uint32_t MAGIC_BITS = 0x4b400000;  // of MAGIC
constexpr float TINY = 1e-35f;               // less than this is zero: its inverse would not be finite

static inline int64_t group_of(int64_t group) { return group ? group : ANYCHIP_INPUT_GROUP; }

// Where one row of x lies in the scratch, in bytes. 64 more than it needs: rows a power of two apart would share
// few lines of the first-level cache.
static inline int64_t row_bytes(int64_t inputs) { return ceil_div(inputs, 64) * 64 + 64; }

static inline float widen(uint16_t half) {
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

// The nearest bfloat16's bits, ties to even. Of finite numbers.
static inline uint16_t narrow(float value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

// The nearest whole number to value in low..high, ties to even.
static inline int32_t nearest(float value, float low, float high) {
    const float bounded = value < low ? low : value > high ? high : value;
    return static_cast<int32_t>((bounded + MAGIC) - MAGIC);
}

// The sum of squares of what 4 bits with this scale leave of the weights.
static float squares_left(const float* weight, int64_t count, float scale) {
    Vec left = {};
    for (int64_t i = 0; i < count; i += LANES) {
        const Vec w = load_part(weight + i, count - i);
        const Vec exact = w / scale, bounded = exact > 7.0f ? fill(7.0f) : exact < -8.0f ? fill(-8.0f) : exact;
        const Vec off = w - ((bounded + MAGIC) - MAGIC) * scale;
        left += off * off;
    }
    return sum(left);
}

// The scale of `count` weights, as bfloat16's bits. With 8 bits the largest becomes 127. With 4 bits it would become
// -8, but a scale near that one often leaves less of the others: the best of a few is taken.
static uint16_t scale_of(const float* weight, int64_t count, int64_t bits) {
    float largest = 0.0f;
    for (int64_t i = 0; i < count; ++i)
        if (__builtin_fabsf(weight[i]) > __builtin_fabsf(largest)) largest = weight[i];
    if (__builtin_fabsf(largest) < TINY) return 0;
    if (bits == 8) return narrow(__builtin_fabsf(largest) / 127.0f);
    uint16_t best = narrow(largest / -8.0f);
    float least_left = squares_left(weight, count, widen(best));
    for (float levels = 7.0f; levels < 10.5f; levels += 0.25f) {
        const uint16_t scale = narrow(largest / -levels);
        const float left = squares_left(weight, count, widen(scale));
        if (left < least_left) best = scale, least_left = left;
    }
    return best;
}

// One output's weights in a group, into every WIDTH-th place of a panel: bytes in fours, or half bytes in eights, of
// which the first four are the low halves.
static void put(const float* weight, int64_t first, int64_t end, int64_t inputs, float scale, int64_t bits,
                uint8_t* out) {
    const float inverse = scale == 0.0f ? 0.0f : 1.0f / scale;
    for (int64_t i = first; i < end; ++i) {
        const float w = i < inputs ? weight[i] * inverse : 0.0f;
        if (bits == 8) {
            out[i / 4 * WIDTH * 4 + i % 4] = static_cast<uint8_t>(128 + nearest(w, -127.0f, 127.0f));
            continue;
        }
        uint8_t& byte = out[i / 8 * WIDTH * 4 + i % 4];
        const int32_t value = 8 + nearest(w, -8.0f, 7.0f);
        byte = static_cast<uint8_t>(i % 8 < 4 ? value : byte | value << 4);
    }
}

void pack_int(const void* arguments, AnychipTeam team) {
    const AnychipPack& w = *static_cast<const AnychipPack*>(arguments);
    const float* weight = static_cast<const float*>(w.weight);
    uint8_t* packed = static_cast<uint8_t*>(w.packed);
    uint16_t* scales = w.scales;
    const int64_t outputs = w.outputs, inputs = w.inputs, bits = w.bits, group = w.group;
    const int64_t padded = ceil_div(inputs, STEP) * STEP, step = group ? group : padded;
    const int64_t groups = ceil_div(inputs, step), bytes = padded * bits / 8;
    share(ceil_div(outputs, WIDTH), team, [=](int64_t from, int64_t to) {
        for (int64_t o = from * WIDTH; o < to * WIDTH; ++o) {
            const int64_t panel = o / WIDTH, place = o % WIDTH, there = o < outputs ? inputs : 0;
            const float* row = there ? weight + o * inputs : weight;
            for (int64_t g = 0; g < groups; ++g) {
                const int64_t first = g * step, end = least(padded, first + step);
                const int64_t count = least(there, end) - first;
                const uint16_t scale = count > 0 ? scale_of(row + first, count, bits) : uint16_t{0};
                scales[(panel * groups + g) * WIDTH + place] = scale;
                put(row, first, end, there, widen(scale), bits, packed + panel * WIDTH * bytes + place * 4);
            }
        }
    });
}

// Rows of x as whole numbers. `scales`, `starts`: [rows, groups]; `bytes`: [rows, row_bytes].
struct Inputs {
    float* scales;
    int32_t* starts;
    int8_t* bytes;
    int64_t stride, groups, step;
};

static inline Inputs inputs_of(void* scratch, int64_t rows, int64_t inputs, int64_t group) {
    const int64_t step = group_of(group), groups = ceil_div(inputs, step);
    float* scales = static_cast<float*>(scratch);
    int32_t* starts = static_cast<int32_t*>(scratch) + rows * groups;
    return {scales, starts, reinterpret_cast<int8_t*>(starts + rows * groups), row_bytes(inputs), groups, step};
}

// One group of a row: `count` numbers, with zeros up to a multiple of STEP. What is not finite makes the scale NaN, and
// so the row's results.
static inline void quantize(const float* x, int64_t count, uint32_t shift, float* scale, int32_t* start, int8_t* out) {
    Vec most = {}, probe = {};
    for (int64_t i = 0; i < count; i += LANES) {
        const Vec v = load_part(x + i, count - i);
        most = larger(larger(most, v), -v);
        probe += v * 0.0f;
    }
    const float top = largest(most), inverse = top < TINY ? 0.0f : 127.0f / top;
    *scale = (top < TINY ? 0.0f : top / 127.0f) + sum(probe);
    Bits total = {};
    int64_t i = 0;
    for (; i < count; i += LANES) {
        const Bits whole = (Bits)(load_part(x + i, count - i) * inverse + MAGIC) - MAGIC_BITS;
        total += whole;
        const Bytes bytes = __builtin_convertvector(whole, Bytes);
        __builtin_memcpy(out + i, &bytes, sizeof bytes);
    }
    for (; i < ceil_div(count, STEP) * STEP; ++i) out[i] = 0;
    uint32_t of_all = 0;  // without sign, since what is made of NaN may wrap
    for (int64_t lane = 0; lane < LANES; ++lane) of_all += total[lane];
    *start = static_cast<int32_t>(0u - shift * of_all);
}

static void quantize_rows(const float* x, int64_t x_stride, int64_t rows, int64_t inputs, uint32_t shift,
                          const Inputs& to, AnychipTeam team) {
    share(rows, worth(rows * inputs, team), [=](int64_t first, int64_t end) {
        for (int64_t r = first; r < end; ++r)
            for (int64_t g = 0; g < to.groups; ++g) {
                const int64_t i = g * to.step, at = r * to.groups + g;
                quantize(x + r * x_stride + i, least(to.step, inputs - i), shift, to.scales + at, to.starts + at,
                         to.bytes + r * to.stride + i);
            }
    });
}

struct Panel {
    const uint8_t* bytes;
    const uint16_t* scales;  // [groups, WIDTH], or [WIDTH]
    const float* bias;
    int64_t count, inputs;  // `count`: the panel's outputs that exist
};

static inline Vec scale_vector(const uint16_t* p) {
    typedef uint16_t Halves __attribute__((vector_size(2 * ANYCHIP_LANES)));
    Halves halves;
    __builtin_memcpy(&halves, p, sizeof halves);
    return (Vec)(__builtin_convertvector(halves, Bits) << 16);
}

// Adds the products of inputs first..end of ROWS rows to `whole`, reading the panel from w on -> where it goes on.
template <int BITS, int ROWS>
static inline __attribute__((always_inline)) const uint8_t* add_products(Ints (&whole)[ROWS][VECTORS], const int8_t* x,
                                                                         int64_t x_stride, const uint8_t* w,
                                                                         int64_t first, int64_t end) {
    const auto add = [&](const WeightBytes(&four)[VECTORS], int64_t i) {
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; ++r) {
            int32_t word;
            __builtin_memcpy(&word, x + r * x_stride + i, sizeof word);
            const InputBytes input = input_bytes(word);
            for (int v = 0; v < VECTORS; ++v) whole[r][v] = dot(whole[r][v], four[v], input);
        }
    };
    for (int64_t i = first; i < end; i += 32 / BITS, w += WIDTH * 4) {
        __builtin_prefetch(w + AHEAD), __builtin_prefetch(w + AHEAD + 64);
        Bits words[VECTORS];
        WeightBytes four[VECTORS];
        for (int v = 0; v < VECTORS; ++v) words[v] = *reinterpret_cast<const LooseBits*>(w + v * LANES * 4);
        for (int v = 0; v < VECTORS; ++v) four[v] = weight_bytes(BITS == 8 ? words[v] : words[v] & 0x0f0f0f0fu);
        add(four, i);
        if (BITS == 8) continue;
        for (int v = 0; v < VECTORS; ++v) four[v] = weight_bytes(words[v] >> 4 & 0x0f0f0f0fu);
        add(four, i + 4);
    }
    return w;
}

// ROWS rows of x by one panel.
template <int BITS, bool GROUPED, int ROWS>
static void tile(const Inputs& x, int64_t row, const Panel& panel, float* y, int64_t y_stride) {
    const uint8_t* w = panel.bytes;
    Vec sum[ROWS][VECTORS] = {};
    for (int64_t g = 0; g < x.groups; ++g) {
        Ints whole[ROWS][VECTORS];
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; ++r)
            for (int v = 0; v < VECTORS; ++v) whole[r][v] = fill(x.starts[(row + r) * x.groups + g]);
        w = add_products<BITS>(whole, x.bytes + row * x.stride, x.stride, w, g * x.step,
                               least(panel.inputs, (g + 1) * x.step));
        Vec scale[VECTORS];
        for (int v = 0; GROUPED && v < VECTORS; ++v) scale[v] = scale_vector(panel.scales + g * WIDTH + v * LANES);
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; ++r) {
            const float factor = x.scales[(row + r) * x.groups + g];
            for (int v = 0; v < VECTORS; ++v) {
                const Vec part = __builtin_convertvector(whole[r][v], Vec);
                sum[r][v] += GROUPED ? part * (factor * scale[v]) : part * factor;
            }
        }
    }
    for (int v = 0; v < VECTORS && panel.count > v * LANES; ++v) {
        const int64_t left = panel.count - v * LANES;
        const Vec bias = panel.bias ? load_part(panel.bias + v * LANES, left) : Vec{};
        const Vec scale = GROUPED ? fill(1.0f) : scale_vector(panel.scales + v * LANES);
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; ++r) store_part(y + r * y_stride + v * LANES, sum[r][v] * scale + bias, left);
    }
}

typedef void (*Tile)(const Inputs&, int64_t, const Panel&, float*, int64_t);

template <int BITS, bool GROUPED>
struct Tiles {
    static constexpr Tile OF[] = {
        nullptr,                  tile<BITS, GROUPED, 1>, tile<BITS, GROUPED, 2>, tile<BITS, GROUPED, 3>,
        tile<BITS, GROUPED, 4>,   tile<BITS, GROUPED, 5>, tile<BITS, GROUPED, 6>,
#if ANYCHIP_LANES == 16
        tile<BITS, GROUPED, 7>,   tile<BITS, GROUPED, 8>, tile<BITS, GROUPED, 9>,
        tile<BITS, GROUPED, 10>,  tile<BITS, GROUPED, 11>, tile<BITS, GROUPED, 12>,
#endif
    };
};

void linear_int(const void* arguments, AnychipTeam team) {
    const AnychipLinear& w = *static_cast<const AnychipLinear*>(arguments);
    const float *x = static_cast<const float*>(w.x), *bias = static_cast<const float*>(w.bias);
    const uint8_t* packed = static_cast<const uint8_t*>(w.packed);
    float* y = static_cast<float*>(w.y);
    const int64_t rows = live_rows(w.rows, w.live);
    const Inputs whole = inputs_of(w.scratch, rows, w.inputs, w.group);
    quantize_rows(x, w.x_stride, rows, w.inputs, w.bits == 8 ? 128u : 8u, whole, team);
    barrier(team);
    const Tile* tiles = w.bits == 4 ? Tiles<4, true>::OF : w.group ? Tiles<8, true>::OF : Tiles<8, false>::OF;
    const int64_t padded = ceil_div(w.inputs, STEP) * STEP, groups = w.group ? whole.groups : 1;
    by_panels(rows, w.outputs, team, [=](int64_t row, int64_t count, int64_t panel) {
        const int64_t column = panel * WIDTH;
        const Panel p = {packed + column * padded * w.bits / 8, w.scales + column * groups,
                         bias ? bias + column : nullptr, w.outputs - column, padded};
        tiles[count](whole, row, p, y + row * w.y_stride + column, w.y_stride);
    });
}

}  // namespace ANYCHIP_ISA
