// Instructions that few machines have, in plain C++, so that the kernels which use them can be tested anywhere. Each
// does what Intel's manual says of it (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2), checks
// and faults included.
#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

namespace {

struct EmulatedTiles {
    bool open;
    uint16_t row_bytes[16];
    uint8_t rows[16];
    uint8_t data[8][16][64];
};

thread_local EmulatedTiles emulated;

inline void fault_unless(bool holds) {
    if (!holds) abort();
}

inline void check_tile(int t) { fault_unless(emulated.open && t < 8 && emulated.rows[t] && emulated.row_bytes[t]); }

inline void emulated_tile_loadconfig(const void* from) {
    const uint8_t* config = static_cast<const uint8_t*>(from);
    fault_unless(config[0] == 1);
    memcpy(emulated.row_bytes, config + 16, sizeof emulated.row_bytes);
    memcpy(emulated.rows, config + 48, sizeof emulated.rows);
    for (int t = 0; t < 16; ++t) {
        fault_unless(emulated.row_bytes[t] <= 64 && emulated.rows[t] <= 16);
        fault_unless((emulated.row_bytes[t] == 0) == (emulated.rows[t] == 0));
        fault_unless(t < 8 || emulated.rows[t] == 0);
    }
    memset(emulated.data, 0, sizeof emulated.data);
    emulated.open = true;
}

inline void emulated_tile_release() { memset(&emulated, 0, sizeof emulated); }

inline void emulated_tile_zero(int t) {
    check_tile(t);
    memset(emulated.data[t], 0, sizeof emulated.data[t]);
}

inline void emulated_tile_loadd(int t, const void* from, int64_t stride) {
    check_tile(t);
    memset(emulated.data[t], 0, sizeof emulated.data[t]);
    for (int r = 0; r < emulated.rows[t]; ++r)
        memcpy(emulated.data[t][r], static_cast<const char*>(from) + r * stride, emulated.row_bytes[t]);
}

inline void emulated_tile_stored(int t, void* to, int64_t stride) {
    check_tile(t);
    for (int r = 0; r < emulated.rows[t]; ++r)
        memcpy(static_cast<char*>(to) + r * stride, emulated.data[t][r], emulated.row_bytes[t]);
}

inline void check_product(int sums, int a, int b) {
    check_tile(sums), check_tile(a), check_tile(b);
    fault_unless(sums != a && sums != b && a != b);
    fault_unless(emulated.row_bytes[sums] % 4 == 0 && emulated.row_bytes[a] % 4 == 0);
    fault_unless(emulated.rows[sums] == emulated.rows[a] && emulated.row_bytes[sums] == emulated.row_bytes[b]);
    fault_unless(emulated.row_bytes[a] == 4 * emulated.rows[b]);
}

inline float emulated_bf16(const uint8_t* p) {
    uint32_t bits = static_cast<uint32_t>(p[0] | p[1] << 8) << 16;
    if ((bits & 0x7f800000u) == 0) bits &= 0x80000000u;  // subnormal numbers are read as zero
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

inline void emulated_tile_dpbf16ps(int sums, int a, int b) {
    check_product(sums, a, b);
    for (int m = 0; m < emulated.rows[sums]; ++m)
        for (int n = 0; n < emulated.row_bytes[sums] / 4; ++n) {
            float even = 0, odd = 0, sum;
            for (int k = 0; k < emulated.row_bytes[a] / 4; ++k) {
                const uint8_t *x = emulated.data[a][m] + 4 * k, *w = emulated.data[b][k] + 4 * n;
                even += emulated_bf16(x) * emulated_bf16(w);
                odd += emulated_bf16(x + 2) * emulated_bf16(w + 2);
            }
            memcpy(&sum, emulated.data[sums][m] + 4 * n, sizeof sum);
            sum += even + odd;
            memcpy(emulated.data[sums][m] + 4 * n, &sum, sizeof sum);
        }
}

// a with sign, b without.
inline void emulated_tile_dpbsud(int sums, int a, int b) {
    check_product(sums, a, b);
    for (int m = 0; m < emulated.rows[sums]; ++m)
        for (int n = 0; n < emulated.row_bytes[sums] / 4; ++n) {
            uint32_t sum;
            memcpy(&sum, emulated.data[sums][m] + 4 * n, sizeof sum);
            for (int k = 0; k < emulated.row_bytes[a]; ++k)
                sum += static_cast<uint32_t>(static_cast<int8_t>(emulated.data[a][m][k]) *
                                             emulated.data[b][k / 4][4 * n + k % 4]);
            memcpy(emulated.data[sums][m] + 4 * n, &sum, sizeof sum);
        }
}

// Bytes of a without sign by bytes of b with sign, in fours, added to the sums.
inline __m256i emulated_mm256_dpbusd_avx_epi32(__m256i sums, __m256i a, __m256i b) {
    uint32_t sum[8];
    uint8_t left[32];
    int8_t right[32];
    memcpy(sum, &sums, 32), memcpy(left, &a, 32), memcpy(right, &b, 32);
    for (int i = 0; i < 32; ++i) sum[i / 4] += static_cast<uint32_t>(left[i] * right[i]);
    memcpy(&sums, sum, 32);
    return sums;
}

}  // namespace

#undef _tile_loadconfig
#define _tile_loadconfig emulated_tile_loadconfig
#undef _tile_release
#define _tile_release emulated_tile_release
#undef _tile_zero
#define _tile_zero emulated_tile_zero
#undef _tile_loadd
#define _tile_loadd emulated_tile_loadd
#undef _tile_stored
#define _tile_stored emulated_tile_stored
#undef _tile_dpbf16ps
#define _tile_dpbf16ps emulated_tile_dpbf16ps
#undef _tile_dpbsud
#define _tile_dpbsud emulated_tile_dpbsud
#undef _mm256_dpbusd_avx_epi32
#define _mm256_dpbusd_avx_epi32 emulated_mm256_dpbusd_avx_epi32
