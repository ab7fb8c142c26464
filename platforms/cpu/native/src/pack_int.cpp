// Weights as whole numbers of 8 or 4 bits.
#include "linear_int.h"

namespace ANYCHIP_ISA {

static inline float widen(uint16_t half) { return widened(Bfloat16{half}); }

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

}  // namespace ANYCHIP_ISA
