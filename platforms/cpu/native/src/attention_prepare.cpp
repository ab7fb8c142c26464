// What comes before attention: norms of q and k, their rotation, and the writing of K and V into their pages. Heads are
// floats on the way, so what is rounded is rounded once.
#include "attention.h"
#include "elementwise.h"
#include "kept.h"
#include "threads.h"

namespace ANYCHIP_ISA {

constexpr int64_t ROW = ANYCHIP_HEAD_MAX;

// One head: normalized where there is a weight, rotated where there are angles (x[i] turned with x[i + size / 2]).
template <typename Number, typename To>
static inline void turn(const Number* x, int64_t size, const float* weight, float eps, const float* cosine,
                        const float* sine, To* y) {
    const float scale = weight ? rms_scale(x, size, eps) : 1.0f;
    const int64_t half = size / 2;
    const int64_t block = cosine ? half : size;
    for (int64_t i = 0; i < block; i += LANES) {
        const int64_t left = block - i;
        Vec a = load_part(x + i, left);
        if (weight) a = a * scale * load_part(weight + i, left);
        if (!cosine) {
            store_part(y + i, a, left);
            continue;
        }
        Vec b = load_part(x + half + i, left);
        if (weight) b = b * scale * load_part(weight + half + i, left);
        const Vec turned_a = a * load_part(cosine + i, left) + b * load_part(sine + i, left);
        const Vec turned_b = b * load_part(cosine + half + i, left) + a * load_part(sine + half + i, left);
        store_part(y + i, turned_a, left);
        store_part(y + half + i, turned_b, left);
    }
}

template <typename Number, typename Kept>
static void prepare_token(const AnychipPrepare& w, int64_t t) {
    const int64_t size = w.head_dim;
    const Number *q = static_cast<const Number*>(w.q) + t * w.q_stride;
    const Number *k = static_cast<const Number*>(w.k) + t * w.k_stride;
    const Number *v = static_cast<const Number*>(w.v) + t * w.v_stride;
    const float* cosine = w.cosine ? w.cosine + t * size : nullptr;
    const float* sine = w.sine ? w.sine + t * size : nullptr;
    Number* out = static_cast<Number*>(w.out) + t * w.heads * size;
    for (int64_t h = 0; h < w.heads; ++h)
        turn(q + h * size, size, w.q_norm, w.eps, cosine, sine, out + h * size);
    const int64_t page = w.slots[t] / w.page_size, place = w.slots[t] % w.page_size;
    for (int64_t h = 0; h < w.kv_heads; ++h) {
        const int64_t row = (page * w.kv_heads + h) * w.page_size + place;
        float turned[ROW];
        turn(k + h * size, size, w.k_norm, w.eps, cosine, sine, turned);
        keep(turned, size, row, static_cast<Kept*>(w.keys), w.key_scales);
        for (int64_t i = 0; i < w.v_dim; i += LANES)
            store_part(turned + i, load_part(v + h * w.v_dim + i, w.v_dim - i), w.v_dim - i);
        keep(turned, w.v_dim, row, static_cast<Kept*>(w.values), w.value_scales);
    }
}

// Memory that nobody has used yet is slow to write: the system has to find and clear it, up to 2 MiB at once, and threads
// that come upon the same piece both do so. So the first two begin with one side each, keys or values, of the pages that
// tokens begin. What those hold already stays as it is.
template <typename Kept>
static void claim(const AnychipPrepare& w, int64_t tokens, AnychipTeam team) {
    if (team.all == 1 || team.me > 1) return;
    Kept* pages = static_cast<Kept*>(team.me == 0 ? w.keys : w.values);
    const int64_t token = w.kv_heads * (team.me == 0 ? w.head_dim : w.v_dim);
    for (int64_t t = 0; t < tokens; ++t)
        if (w.slots[t] % w.page_size == 0)
            __atomic_fetch_or(reinterpret_cast<char*>(pages + w.slots[t] * token), 0, __ATOMIC_RELAXED);
}

template <typename Number>
void prepare(const void* arguments, AnychipTeam team) {
    const AnychipPrepare& w = *static_cast<const AnychipPrepare*>(arguments);
    const int64_t tokens = live_rows(w.tokens, w.live);
    of_kind(w.kept, [&](auto kind) {
        claim<decltype(kind)>(w, tokens, team);
        share(tokens, worth(tokens * (w.heads + 2 * w.kv_heads) * w.head_dim, team), [&](int64_t first, int64_t end) {
            for (int64_t t = first; t < end; ++t) prepare_token<Number, decltype(kind)>(w, t);
        });
    });
}

template void prepare<float>(const void*, AnychipTeam);
template void prepare<Bfloat16>(const void*, AnychipTeam);
template void prepare<Float16>(const void*, AnychipTeam);

}  // namespace ANYCHIP_ISA
