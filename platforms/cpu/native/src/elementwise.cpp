#include "elementwise.h"

#include <math.h>

#include "halves.h"
#include "threads.h"

namespace ANYCHIP_ISA {

// y may be x.
template <typename Number>
static inline void normalize(const Number* x, int64_t size, const float* weight, float eps, Number* y) {
    const Vec scale = fill(rms_scale(x, size, eps));
    for (int64_t i = 0; i < size; i += LANES)
        store_part(y + i, load_part(x + i, size - i) * scale * load_part(weight + i, size - i), size - i);
}

template <typename Number>
void rms_norm(const void* arguments, AnychipTeam team) {
    const AnychipNorm& w = *static_cast<const AnychipNorm*>(arguments);
    const Number *x = static_cast<const Number*>(w.x), *residual = static_cast<const Number*>(w.residual);
    Number *y = static_cast<Number*>(w.y), *total = static_cast<Number*>(w.total);
    const int64_t rows = live_rows(w.rows, w.live);
    share(rows, worth(rows * w.size, team), [=](int64_t first, int64_t end) {
        for (int64_t r = first; r < end; ++r) {
            const Number* row = x + r * w.x_stride;
            if (residual) {
                Number* out = total + r * w.size;
                for (int64_t i = 0; i < w.size; i += LANES) {
                    const int64_t left = w.size - i;
                    store_part(out + i, load_part(row + i, left) + load_part(residual + r * w.size + i, left), left);
                }
                row = out;
            }
            normalize(row, w.size, w.weight, w.eps, y + r * w.y_stride);
        }
    });
}

template <typename Number>
void gated(const void* arguments, AnychipTeam team) {
    const AnychipGated& w = *static_cast<const AnychipGated*>(arguments);
    const Number *gate = static_cast<const Number*>(w.gate), *up = static_cast<const Number*>(w.up);
    Number* y = static_cast<Number*>(w.y);
    const int64_t rows = live_rows(w.rows, w.live);
    share(rows, worth(4 * rows * w.size, team), [=](int64_t first, int64_t end) {
        for (int64_t r = first; r < end; ++r)
            for (int64_t i = 0; i < w.size; i += LANES) {
                const int64_t left = w.size - i;
                const Vec x = load_part(gate + r * w.gate_stride + i, left);
                const Vec open = activated(w.activation, x);
                store_part(y + r * w.y_stride + i, open * load_part(up + r * w.up_stride + i, left), left);
            }
    });
}

#define ANYCHIP_OF(Number)                                   \
    template void rms_norm<Number>(const void*, AnychipTeam); \
    template void gated<Number>(const void*, AnychipTeam);
ANYCHIP_OF(float)
ANYCHIP_OF(Bfloat16)
ANYCHIP_OF(Float16)

}  // namespace ANYCHIP_ISA
