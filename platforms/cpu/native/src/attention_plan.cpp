// The work list of a step's attention, from the real lengths.
#include "attention.h"

namespace ANYCHIP_ISA {

// Tasks of sequence s: chunks of the places that a decoding token sees, or tiles of the others' tokens.
static inline int64_t tasks_of(const AnychipAttention& w, int64_t s) {
    if (s < w.counts[3]) return ceil_div(w.lengths[s], CHUNK) - first_seen(w, w.lengths[s] - 1) / CHUNK;
    return ceil_div(w.starts[s + 1] - w.starts[s], ANYCHIP_PREFILL_ROWS / (w.heads / w.kv_heads));
}

// Whether two sequences see all of a chunk, in the same pages.
static bool shares(const AnychipAttention& w, int64_t a, int64_t b, int64_t chunk) {
    const int64_t first = chunk * CHUNK, end = first + CHUNK;
    const auto sees = [&](int64_t s) { return w.lengths[s] >= end && first_seen(w, w.lengths[s] - 1) <= first; };
    return sees(a) && sees(b) && same_until(w, a, b, first, end) == end;
}

// Tasks with the same pages that are taken together: fewer where chunks and heads alone make too few for all threads.
static int64_t most_together(const AnychipAttention& w, int64_t longest, int64_t threads) {
    constexpr int64_t MANY = 24, FEWER = 8, ENOUGH = 4;  // for each thread
    const bool enough = ceil_div(longest, CHUNK) * w.kv_heads >= ENOUGH * threads;
    return least(enough ? MANY : FEWER, GROUP_MAX / (w.heads / w.kv_heads));
}

// Prefill tasks that follow each other are taken together where they have places in common and their rows fit, unless
// that leaves too few for all threads.
static void order_prefills(const AnychipAttention& w, int64_t threads) {
    constexpr int64_t ENOUGH = 4;  // for each thread
    const int64_t from = w.task_first[w.counts[3]], end = w.task_first[w.counts[1]];
    int64_t all = 0;
    for (int64_t task = from; task < end; ++task) all += Part(w, task).rows(w);
    const int64_t most = least(ANYCHIP_JOINED_ROWS, all * w.kv_heads / (ENOUGH * threads));
    Part head;
    for (int64_t task = from, rows = most, wanted = PLACES; task < end; ++task) {
        const Part part(w, task);
        const int64_t found = rows + part.rows(w) <= most ? in_common(w, head, part) : 0;
        const bool joins = found >= wanted;
        w.task_order[task] = static_cast<int32_t>(joins ? ~task : task);
        if (!joins) head = part;
        wanted = joins ? found : PLACES, rows = part.rows(w) + (joins ? rows : 0);
    }
}

// Chunk by chunk, so that sequences with a prefix in common stand side by side.
static void order_decodes(const AnychipAttention& w, int64_t threads) {
    const int64_t decodes = w.counts[3];
    int64_t longest = 0;
    for (int64_t s = 0; s < decodes; ++s) longest = w.lengths[s] > longest ? w.lengths[s] : longest;
    const int64_t together = most_together(w, longest, threads);
    for (int64_t chunk = 0, n = 0; chunk * CHUNK < longest; ++chunk)
        for (int64_t s = 0, before = -1, taken = 0; s < decodes; ++s) {
            const int64_t task = w.task_first[s] + chunk - first_seen(w, w.lengths[s] - 1) / CHUNK;
            if (task < w.task_first[s] || task >= w.task_first[s + 1]) continue;
            taken = before >= 0 && taken < together && shares(w, before, s, chunk) ? taken + 1 : 1;
            w.task_order[n++] = static_cast<int32_t>(taken > 1 ? ~task : task);
            before = s;
        }
}

void plan(const void* arguments, AnychipTeam team) {
    if (team.me > 0) return;
    const AnychipAttention& w = *static_cast<const AnychipAttention*>(arguments);
    int32_t task = 0;
    for (int64_t s = 0; s < w.counts[1]; ++s) {
        w.task_first[s] = task;
        for (int64_t count = tasks_of(w, s); count > 0; --count) w.task_sequence[task++] = static_cast<int32_t>(s);
    }
    w.task_first[w.counts[1]] = task;
    order_decodes(w, team.all);
    order_prefills(w, team.all);
}

}  // namespace ANYCHIP_ISA
