// Tokens of logits, a row at a time: what `Ops.sample` of the contract says, in this order: edits, penalties, the
// largest, or temperature, top_k, top_p, min_p and the row's random number.
//
// What the filters keep is always the head of the row in falling order, so nothing is sorted: a quickselect finds how
// far each of them reaches. Where the likeliest tokens alone settle a row, the others are looked at only for their sum.

#include <math.h>

#include "attention.h"
#include "candidates.h"
#include "halves.h"
#include "threads.h"

namespace ANYCHIP_ISA {

constexpr float NEAR = 8.0f;           // tokens less likely than e^-8 of the likeliest are not tried at first
constexpr int64_t RUN = 64 * LANES;    // float32 sums of so many go into a float64 one
constexpr int32_t NO_TOKEN = -1;

namespace {

// Columns of a sampling row: `Row` of the contract.
struct Row {
    float temperature, top_p, min_p, uniform, repetition, presence, frequency;
    int32_t top_k, target;
};

// The sum of e^((x - top) * scale).
double mass_of(const float* x, int64_t size, float top, float scale) {
    double total = 0;
    for (int64_t first = 0; first < size; first += RUN) {
        const int64_t end = least(size, first + RUN);
        Vec run = {};
        int64_t i = first;
        for (; i + LANES <= end; i += LANES) run += exponential((load(x + i) - top) * scale);
        if (i < end) {
            const Vec p = exponential((load_part(x + i, end - i) - top) * scale);
            for (int64_t j = 0; j < end - i; ++j) run[j] += p[j];
        }
        total += sum(run);
    }
    return total;
}

// Those whose logit is at least `low`, relative to `top`.
void collect(const float* x, int64_t size, float low, float top, float scale, Candidates& to) {
    to.count = 0;
    for (int64_t i = 0; i < size; i += LANES) {
        const int64_t count = least(LANES, size - i);
        const Vec v = load_part(x + i, count);
        const Ints near = (Ints)(v >= low);
        if (!any(near)) continue;
        const Vec p = exponential((v - top) * scale);
        for (int64_t j = 0; j < count; ++j)
            if (near[j]) to.keys[to.count] = key_of(v[j], i + j), to.p[to.count++] = p[j];
    }
}

// The keys of the `top` <= size likeliest, falling.
void likeliest(const float* x, int64_t size, int64_t top, uint64_t* keys) {
    for (int64_t i = 0; i < top; ++i) keys[i] = key_of(x[i], i);
    if (top == 0) return;
    for (int64_t i = 1; i < top; ++i)
        for (int64_t j = i; j > 0 && keys[j] > keys[j - 1]; --j) swap(keys[j], keys[j - 1]);
    for (int64_t i = top; i < size; i += LANES) {
        const int64_t count = least(LANES, size - i);
        const float low = x[token_of(keys[top - 1])];
        if (!any((Ints)!(load_part(x + i, count) <= low))) continue;
        for (int64_t j = 0; j < count; ++j) {
            const uint64_t key = key_of(x[i + j], i + j);
            if (key < keys[top - 1]) continue;
            keys[top - 1] = key;
            for (int64_t at = top - 1; at > 0 && keys[at] > keys[at - 1]; --at) swap(keys[at], keys[at - 1]);
        }
    }
}

// The token of a row whose likeliest tokens are `c`, or NO_TOKEN where those that it lacks might change it.
// `total`: relative probability of all tokens; `whole`: c lacks none.
int32_t draw(Candidates c, const Row& row, double total, bool whole) {
    const bool cut = row.top_k > 0 && row.top_k <= c.count;
    if (cut) {
        c.count = c.first(INFINITY, false, row.top_k);
        total = c.mass(0, c.count);
    } else if (row.top_k > 0 && !whole) {
        return NO_TOKEN;
    }
    bool ends = cut || whole;  // whether all that the filters keep is in c
    if (row.top_p < 1.0f) {
        const double bound = row.top_p * total;
        const int64_t count = c.first(bound, true, c.count);
        ends = ends || count < c.count || c.mass(0, count) >= bound;
        c.count = count;
    }
    int64_t kept = 0;
    for (int64_t i = 0; i < c.count; ++i)
        if (c.p[i] >= row.min_p && c.p[i] > 0.0f) c.swap(i, kept++);
    ends = ends || kept < c.count;
    c.count = kept;
    const double mass = c.mass(0, c.count), bound = row.uniform * (ends ? mass : total);
    if (!ends && mass <= bound) return NO_TOKEN;
    return token_of(c.keys[c.first(bound, false, c.count) - 1]);
}

struct Sampler {
    const AnychipSample& w;
    float* changed;  // [vocabulary] of this thread, and so are `keys` and `p`
    Candidates candidates;

    Sampler(const AnychipSample& work, int64_t thread) : w(work) {
        char* mine = static_cast<char*>(w.scratch) + thread * ANYCHIP_SAMPLE_BYTES * w.vocabulary;
        candidates.keys = reinterpret_cast<uint64_t*>(mine);
        candidates.p = reinterpret_cast<float*>(candidates.keys + w.vocabulary);
        changed = candidates.p + w.vocabulary;
        candidates.count = 0;
    }

    void run(int64_t r) const {
        const float* given = w.logits + r * w.logits_stride;
        Row row;
        __builtin_memcpy(&row, w.sampling + r * w.sampling_stride, sizeof row);
        w.tokens[r] = pick(change(r, given, row), row);
        if (w.logprob) tell(r, given, row);
    }

    // The row with its edits and penalties: a copy, if there are any.
    const float* change(int64_t r, const float* given, const Row& row) const {
        bool copied = false;
        const auto at = [&](int32_t token) -> float& {
            if (!copied) __builtin_memcpy(changed, given, w.vocabulary * sizeof(float));
            copied = true;
            return changed[token];
        };
        for (int64_t i = 0; i < w.edits; ++i)
            if (w.edit_row[i] == r && w.edit_value[i] != 0.0f) at(w.edit_token[i]) += w.edit_value[i];
        for (int64_t i = 0; i < w.counts; ++i) {
            if (w.count_row[i] != r || (!w.count_seen[i] && w.count_output[i] <= 0)) continue;
            float& value = at(w.count_token[i]);
            if (w.count_seen[i]) value = value > 0 ? value / row.repetition : value * row.repetition;
            if (w.count_output[i] > 0) value -= static_cast<float>(w.count_output[i]) * row.frequency + row.presence;
        }
        return copied ? changed : given;
    }

    int32_t pick(const float* x, const Row& row) const {
        const Best best = best_of(x, w.vocabulary);
        if (!best.ordered) return NO_TOKEN;
        // Infinite: no probabilities, but still a largest.
        if (row.temperature == 0.0f || __builtin_isinf(best.logit) || row.top_k == 1) return static_cast<int32_t>(best.token);
        const float scale = 1.0f / row.temperature, low = best.logit - NEAR * row.temperature;
        if (__builtin_isinf(scale)) return static_cast<int32_t>(best.token);
        const double total = mass_of(x, w.vocabulary, best.logit, scale);
        Candidates c = candidates;
        collect(x, w.vocabulary, low, best.logit, scale, c);
        const int32_t token = draw(c, row, total, c.count == w.vocabulary);
        if (token != NO_TOKEN) return token;
        collect(x, w.vocabulary, -INFINITY, best.logit, scale, c);
        return draw(c, row, total, true);
    }

    // Log-probabilities of the row as the model made it.
    void tell(int64_t r, const float* x, const Row& row) const {
        const int64_t size = w.vocabulary;
        const int32_t sampled = w.tokens[r] < 0 ? 0 : w.tokens[r], token = row.target > 0 ? row.target - 1 : sampled;
        const float top = best_of(x, size).logit;
        const float all = top + static_cast<float>(log(mass_of(x, size, top, 1.0f)));
        int32_t rank = 1;
        for (int64_t i = 0; i < size; ++i) rank += x[i] > x[token];
        w.logprob[r] = x[token] - all, w.rank[r] = rank;
        likeliest(x, size, w.top, candidates.keys);
        for (int64_t i = 0; i < w.top; ++i) {
            const int32_t one = token_of(candidates.keys[i]);
            w.top_tokens[r * w.top + i] = one, w.top_logprobs[r * w.top + i] = x[one] - all;
        }
    }
};

}  // namespace

template <typename Number>
void logits(const void* arguments, AnychipTeam team) {
    const AnychipLogits& w = *static_cast<const AnychipLogits*>(arguments);
    const int64_t elements = live_rows(w.rows, w.live) * w.size, vectors = ceil_div(elements, LANES);
    const Number* x = static_cast<const Number*>(w.x);
    share(vectors, worth(elements, team), [=](int64_t first, int64_t end) {
        for (int64_t i = first * LANES; i < least(elements, end * LANES); i += LANES) {
            const Vec v = load_part(x + i, elements - i);
            store_part(w.y + i, w.softcap > 0 ? capped(v, w.softcap) : v, elements - i);
        }
    });
}

template void logits<float>(const void*, AnychipTeam);
template void logits<Bfloat16>(const void*, AnychipTeam);
template void logits<Float16>(const void*, AnychipTeam);

void sample(const void* arguments, AnychipTeam team) {
    const AnychipSample& w = *static_cast<const AnychipSample*>(arguments);
    const int64_t rows = live_rows(w.rows, w.live);
    const Sampler sampler(w, team.me);
    share(rows, team, [&](int64_t first, int64_t end) {
        for (int64_t r = first; r < end; ++r) sampler.run(r);
    });
    barrier(team);
    // In order, and by one thread: rows may share slot 0.
    for (int64_t r = 0; team.me == 0 && r < rows; ++r) w.last_token[w.row_slot[r]] = w.tokens[r] < 0 ? 0 : w.tokens[r];
}

}  // namespace ANYCHIP_ISA
