// The most likely tokens of a row, without sorting the vocabulary.
#pragma once

#include <math.h>

#include "simd.h"

namespace ANYCHIP_ISA {

struct Best {
    float logit;
    int64_t token;
    bool ordered;  // no NaN anywhere
};

// The largest, and the first one of equals.
static inline Best best_of(const float* x, int64_t size) {
    Vec most = fill(-INFINITY);
    Ints where = {}, nan = {}, lane;
    for (int64_t i = 0; i < LANES; ++i) lane[i] = static_cast<int32_t>(i);
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES, lane += static_cast<int32_t>(LANES)) {
        const Vec v = load(x + i);
        nan |= (Ints)(v != v);
        where = v > most ? lane : where;
        most = larger(v, most);
    }
    Best best = {-INFINITY, size, true};
    for (int64_t j = 0; j < LANES; ++j) {
        if (most[j] > best.logit || (most[j] == best.logit && where[j] < best.token))
            best.logit = most[j], best.token = where[j];
        if (nan[j]) best.ordered = false;
    }
    for (; i < size; ++i) {
        if (x[i] > best.logit) best.logit = x[i], best.token = i;
        if (x[i] != x[i]) best.ordered = false;
    }
    if (best.logit == -INFINITY) best.token = 0;
    return best;
}

// What orders tokens: the larger key is the more likely token, and of equal ones that with the lower id.
static inline uint64_t key_of(float logit, int64_t token) {
    logit += 0.0f;  // -0 and 0 are equal
    uint32_t bits;
    __builtin_memcpy(&bits, &logit, sizeof bits);
    bits = bits >> 31 ? ~bits : bits | 0x80000000u;
    return static_cast<uint64_t>(bits) << 32 | (0xffffffffu - static_cast<uint32_t>(token));
}

static inline int32_t token_of(uint64_t key) { return static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(key)); }

template <typename T>
static inline void swap(T& a, T& b) {
    const T c = a;
    a = b, b = c;
}

constexpr int64_t SORTED = 24;  // so many are sorted rather than parted

// Tokens of a row and their probabilities relative to the most likely one's, in any order.
struct Candidates {
    uint64_t* keys;
    float* p;
    int64_t count;

    void swap(int64_t a, int64_t b) const {
        ANYCHIP_ISA::swap(keys[a], keys[b]);
        ANYCHIP_ISA::swap(p[a], p[b]);
    }

    double mass(int64_t first, int64_t end) const {
        double sum = 0;
        for (int64_t i = first; i < end; ++i) sum += p[i];
        return sum;
    }

    // first..end in falling order; for few.
    void sort(int64_t first, int64_t end) const {
        for (int64_t i = first + 1; i < end; ++i)
            for (int64_t j = i; j > first && keys[j] > keys[j - 1]; --j) swap(j, j - 1);
    }

    // Puts those of first..end that are larger than one of them, picked by `draw`, before it and the others behind it
    // -> where it stands.
    int64_t part(int64_t first, int64_t end, uint32_t draw) const {
        const int64_t count = end - first;
        const int64_t a = first + draw % count, b = first + (draw >> 8) % count, c = first + (draw >> 16) % count;
        const bool ab = keys[a] < keys[b], bc = keys[b] < keys[c], ac = keys[a] < keys[c];
        swap(ab == bc ? b : ab == ac ? c : a, end - 1);  // the middle one of three
        const uint64_t key = keys[end - 1];
        int64_t to = first;
        for (int64_t i = first; i < end - 1; ++i)
            if (keys[i] > key) swap(i, to++);
        swap(to, end - 1);
        return to;
    }

    // The least number of the most likely ones whose mass exceeds `bound` (`reach`: reaches it), or else `most` of
    // them; they are put in front, the least likely of them last. A quickselect (Hoare's FIND, 1961) by mass.
    int64_t first(double bound, bool reach, int64_t most) const {
        const auto enough = [=](double sum, int64_t n) {
            return n > 0 && (n >= most || sum > bound || (reach && sum >= bound));
        };
        int64_t from = 0, to = count;
        double before = 0;  // mass of those in front of `from`, which are not enough
        uint32_t draw = 0x9e3779b9u;
        while (to - from > SORTED) {
            draw = draw * 1664525u + 1013904223u;
            const int64_t middle = part(from, to, draw);
            const double left = before + mass(from, middle);
            if (enough(left, middle)) {
                to = middle;
                continue;
            }
            before = left + p[middle], from = middle + 1;
            if (enough(before, from)) return from;
        }
        sort(from, to);
        for (; from < to; ++from)
            if (enough(before += p[from], from + 1)) return from + 1;
        return to;
    }
};

}  // namespace ANYCHIP_ISA
