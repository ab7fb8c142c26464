// Mixture of experts. `route` chooses each token's experts and sorts the picks (a token with one of its experts) by
// expert, so that each expert's tokens are rows beside each other for grouped products; `combine` adds up each token's
// picks in the order of their probability, whatever else is in the batch.

#include <math.h>

#include "candidates.h"
#include "halves.h"
#include "threads.h"

namespace ANYCHIP_ISA {

// The `top` most likely experts, lower ones first on ties, and their probabilities.
template <typename Number>
static void choose(const AnychipRoute& w, int64_t t) {
    const Number* scores = static_cast<const Number*>(w.scores) + t * w.scores_stride;
    int32_t* chosen = w.chosen + t * w.top;
    float *weights = w.weights + t * w.top, best = -INFINITY, total = 0;
    for (int64_t e = 0; e < w.experts; ++e) best = widened(scores[e]) > best ? widened(scores[e]) : best;
    for (int64_t e = 0; e < w.experts; ++e) {
        const float score = widened(scores[e]);
        const uint64_t key = key_of(score, e);
        total += expf(score - best);
        int64_t at = least(e, w.top);
        if (at == w.top && key < key_of(widened(scores[chosen[at - 1]]), chosen[at - 1])) continue;
        if (at == w.top) --at;
        for (; at > 0 && key_of(widened(scores[chosen[at - 1]]), chosen[at - 1]) < key; --at)
            chosen[at] = chosen[at - 1];
        chosen[at] = static_cast<int32_t>(e);
    }
    float kept = 0;
    for (int64_t k = 0; k < w.top; ++k) kept += weights[k] = expf(widened(scores[chosen[k]]) - best);
    for (int64_t k = 0; k < w.top; ++k) weights[k] /= w.renormalize ? kept : total;
}

// A counting sort, in order of tokens within an expert.
static void sort(const AnychipRoute& w, int64_t tokens) {
    for (int64_t e = 0; e <= w.experts; ++e) w.starts[e] = 0;
    for (int64_t i = 0; i < tokens * w.top; ++i) ++w.starts[w.chosen[i] + 1];
    for (int64_t e = 0; e < w.experts; ++e) w.starts[e + 1] += w.starts[e];
    for (int64_t i = 0; i < tokens * w.top; ++i) {
        const int32_t place = w.starts[w.chosen[i]]++;
        w.token[place] = static_cast<int32_t>(i / w.top), w.place[i] = place;
    }
    for (int64_t e = w.experts; e > 0; --e) w.starts[e] = w.starts[e - 1];  // each had become its end
    w.starts[0] = 0;
}

template <typename Number>
void route(const void* arguments, AnychipTeam team) {
    const AnychipRoute& w = *static_cast<const AnychipRoute*>(arguments);
    const int64_t tokens = live_rows(w.tokens, w.live);
    share(tokens, worth(16 * tokens * w.experts, team), [=](int64_t first, int64_t end) {
        for (int64_t t = first; t < end; ++t) choose<Number>(w, t);
    });
    barrier(team);
    if (team.me == 0) sort(w, tokens);
}

template <typename Number>
void combine(const void* arguments, AnychipTeam team) {
    const AnychipCombine& w = *static_cast<const AnychipCombine*>(arguments);
    const int64_t tokens = live_rows(w.tokens, w.live);
    share(tokens, worth(tokens * w.top * w.size, team), [=](int64_t first, int64_t end) {
        for (int64_t t = first; t < end; ++t)
            for (int64_t i = 0; i < w.size; i += LANES) {
                const int64_t left = w.size - i;
                Vec sum = {};
                for (int64_t k = t * w.top; k < (t + 1) * w.top; ++k)
                    sum += load_part(static_cast<const Number*>(w.x) + w.place[k] * w.size + i, left) * w.weights[k];
                store_part(static_cast<Number*>(w.y) + t * w.size + i, sum, left);
            }
    });
    // Padding is zero: nothing of it was computed.
    Number* padding = static_cast<Number*>(w.y) + tokens * w.size;
    share((w.tokens - tokens) * w.size, team, [=](int64_t first, int64_t end) {
        for (int64_t i = first; i < end; ++i) padding[i] = Number{};
    });
}

#define ANYCHIP_OF(Number)                                 \
    template void route<Number>(const void*, AnychipTeam); \
    template void combine<Number>(const void*, AnychipTeam);
ANYCHIP_OF(float)
ANYCHIP_OF(Bfloat16)
ANYCHIP_OF(Float16)

}  // namespace ANYCHIP_ISA
