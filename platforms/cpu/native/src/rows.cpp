// What takes, makes or looks at single rows: by index, angles, the most likely token.
#include <math.h>
#include <string.h>

#include "elementwise.h"
#include "linear.h"
#include "threads.h"

namespace ANYCHIP_ISA {

void gather(const void* arguments, AnychipTeam team) {
    const AnychipGather& w = *static_cast<const AnychipGather*>(arguments);
    const char* x = static_cast<const char*>(w.x);
    char* y = static_cast<char*>(w.y);
    const int64_t rows = live_rows(w.rows, w.live);
    share(rows, worth(rows * w.size / 4, team), [=](int64_t first, int64_t end) {
        if (!w.ids) memset(y + first * w.size, 0, static_cast<size_t>((end - first) * w.size));
        for (int64_t r = first; w.ids && r < end; ++r)
            memcpy(y + r * w.size, x + w.ids[r] * w.size, static_cast<size_t>(w.size));
    });
}

void embedding_f32(const void* arguments, AnychipTeam team) {
    const AnychipGather& w = *static_cast<const AnychipGather*>(arguments);
    const float* x = static_cast<const float*>(w.x);
    float* y = static_cast<float*>(w.y);
    const int64_t rows = live_rows(w.rows, w.live);
    share(rows, worth(16 * rows * w.size, team), [=](int64_t first, int64_t end) {
        for (int64_t r = first; r < end; ++r) {
            const float* from = x + w.ids[r] / WIDTH * WIDTH * w.size + w.ids[r] % WIDTH;
            for (int64_t i = 0; i < w.size; ++i) y[r * w.size + i] = from[i * WIDTH] * w.scale;
        }
    });
}

void rope_angles(const void* arguments, AnychipTeam team) {
    const AnychipRope& w = *static_cast<const AnychipRope*>(arguments);
    const int64_t tokens = live_rows(w.tokens, w.live);
    share(tokens, worth(64 * tokens * w.half, team), [=](int64_t first, int64_t end) {
        for (int64_t t = first; t < end; ++t) {
            float *cosine = w.cosine + t * 2 * w.half, *sine = w.sine + t * 2 * w.half;
            for (int64_t i = 0; i < w.half; ++i) {
                const float angle = static_cast<float>(w.positions[t]) * w.inverse[i];
                cosine[i] = cosine[w.half + i] = cosf(angle);
                sine[w.half + i] = sinf(angle);
                sine[i] = -sine[w.half + i];
            }
        }
    });
}

// The first place of the row's largest; -1 where it holds NaN.
static inline int32_t most_likely(const float* row, int64_t size) {
    Vec best = fill(-INFINITY), probe = {};
    for (int64_t i = 0; i < size; i += LANES) {
        const int64_t left = size - i;
        Vec v = load_part(row + i, left);
        for (int64_t j = left; j < LANES; ++j) v[j] = -INFINITY;
        probe += v != v ? fill(1.0f) : Vec{};
        best = larger(v, best);
    }
    if (sum(probe) > 0) return -1;
    const float top = largest(best);
    int64_t i = 0;
    while (i < size - 1 && row[i] != top) ++i;
    return static_cast<int32_t>(i);
}

void greedy(const void* arguments, AnychipTeam team) {
    const AnychipGreedy& w = *static_cast<const AnychipGreedy*>(arguments);
    const int64_t rows = live_rows(w.rows, w.live);
    share(rows, team, [=](int64_t first, int64_t end) {
        for (int64_t r = first; r < end; ++r) w.tokens[r] = most_likely(w.logits + r * w.size, w.size);
    });
    barrier(team);
    // In order, and by one thread: rows may share slot 0.
    for (int64_t r = 0; team.me == 0 && r < rows; ++r) w.last_token[w.row_slot[r]] = w.tokens[r] < 0 ? 0 : w.tokens[r];
}

}  // namespace ANYCHIP_ISA
