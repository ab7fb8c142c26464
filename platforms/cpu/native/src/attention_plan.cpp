// The work list of a step's attention, from the real lengths.
#include "attention.h"

namespace ANYCHIP_ISA {

// Tasks of sequence s: chunks of the places that a decoding token sees, or tiles of the others' tokens.
static inline int64_t tasks_of(const AnychipAttention& w, int64_t s) {
    if (s < w.counts[3]) return ceil_div(w.lengths[s], CHUNK) - first_seen(w, w.lengths[s] - 1) / CHUNK;
    return ceil_div(w.starts[s + 1] - w.starts[s], ANYCHIP_PREFILL_ROWS / (w.heads / w.kv_heads));
}

// Chunk by chunk, so that sequences with a prefix in common read its pages one after another, while a cache holds them.
static void order(const AnychipAttention& w) {
    const int64_t decodes = w.counts[3];
    int64_t most = 0;
    for (int64_t s = 0; s < decodes; ++s) most = w.lengths[s] > most ? w.lengths[s] : most;
    for (int64_t chunk = 0, n = 0; chunk * CHUNK < most; ++chunk)
        for (int64_t s = 0; s < decodes; ++s) {
            const int64_t task = w.task_first[s] + chunk - first_seen(w, w.lengths[s] - 1) / CHUNK;
            if (task >= w.task_first[s] && task < w.task_first[s + 1]) w.task_order[n++] = static_cast<int32_t>(task);
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
    order(w);
}

}  // namespace ANYCHIP_ISA
