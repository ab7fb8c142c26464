// Rows by index, and the angles of positions.
#include <math.h>
#include <string.h>

#include "elementwise.h"
#include "halves.h"
#include "linear.h"
#include "threads.h"

namespace ANYCHIP_ISA {

void gather(const void* arguments, AnychipTeam team) {
    const AnychipGather& w = *static_cast<const AnychipGather*>(arguments);
    const char* x = static_cast<const char*>(w.x);
    char* y = static_cast<char*>(w.y);
    const int64_t rows = live_rows(w.rows, w.live);
    share(rows, worth(rows * w.size / 4, team), [=](int64_t first, int64_t end) {
        for (int64_t r = first; r < end; ++r)
            if (w.ids)
                memcpy(y + r * w.y_stride, x + w.ids[r] * w.x_stride, static_cast<size_t>(w.size));
            else
                memset(y + r * w.y_stride, 0, static_cast<size_t>(w.size));
    });
}

template <typename Number, typename Weight>
void embedding(const void* arguments, AnychipTeam team) {
    const AnychipGather& w = *static_cast<const AnychipGather*>(arguments);
    constexpr int64_t pair = PAIR<Weight>;
    const int64_t rows = live_rows(w.rows, w.live), panel = ceil_div(w.size, pair) * pair * WIDTH;
    share(rows, worth(16 * rows * w.size, team), [=](int64_t first, int64_t end) {
        for (int64_t r = first; r < end; ++r) {
            const Weight* from = static_cast<const Weight*>(w.x) + w.ids[r] / WIDTH * panel + w.ids[r] % WIDTH * pair;
            Number* y = static_cast<Number*>(w.y) + r * w.y_stride;
            for (int64_t i = 0; i < w.size; ++i) {
                const Weight number = from[i / pair * pair * WIDTH + i % pair];
                if constexpr (sizeof(Number) == sizeof(Weight))
                    y[i] = number;
                else
                    y[i] = widened(number);
            }
            for (int64_t i = 0; w.scale != 1.0f && i < w.size; i += LANES)
                store_part(y + i, load_part(y + i, w.size - i) * w.scale, w.size - i);
        }
    });
}

template void embedding<float, float>(const void*, AnychipTeam);
template void embedding<float, Bfloat16>(const void*, AnychipTeam);
template void embedding<float, Float16>(const void*, AnychipTeam);
template void embedding<Bfloat16, Bfloat16>(const void*, AnychipTeam);
template void embedding<Float16, Float16>(const void*, AnychipTeam);

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

}  // namespace ANYCHIP_ISA
