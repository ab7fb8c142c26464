// Work on OpenMP's threads. torch brings the same library (libgomp.so.1), so both use one pool.
#pragma once

#include <omp.h>
#include <stdint.h>

namespace ANYCHIP_ISA {

// Calls body(first, end) on every thread, with a contiguous share of 0..count each.
template <typename Body>
static inline void share(int64_t count, int64_t threads, const Body& body) {
    if (threads > count) threads = count;
    if (threads <= 1) {
        if (count > 0) body(int64_t{0}, count);
        return;
    }
#pragma omp parallel num_threads(static_cast<int>(threads))
    {
        const int64_t me = omp_get_thread_num(), all = omp_get_num_threads();
        const int64_t first = count * me / all, end = count * (me + 1) / all;
        if (first < end) body(first, end);
    }
}

}  // namespace ANYCHIP_ISA
