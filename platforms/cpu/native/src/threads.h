// Work shared out among the threads of a team: OpenMP's, of one parallel region. torch brings the same library
// (libgomp.so.1), so both use one pool.
#pragma once

#include <omp.h>
#include <stdint.h>

#include "anychip_cpu.h"

namespace ANYCHIP_ISA {

// Calls body(first, end) with this thread's contiguous share of 0..count.
template <typename Body>
static inline void share(int64_t count, AnychipTeam team, const Body& body) {
    if (team.me >= team.all) return;
    const int64_t first = count * team.me / team.all, end = count * (team.me + 1) / team.all;
    if (first < end) body(first, end);
}

// The team, or its first thread alone where there are too few elements for more.
static inline AnychipTeam worth(int64_t elements, AnychipTeam team) {
    constexpr int64_t ALONE = 16384;
    return elements < ALONE ? AnychipTeam{team.me, 1} : team;
}

// Every thread of the team waits for the others here.
static inline void barrier() {
#pragma omp barrier
}

static inline int64_t live_rows(int64_t rows, const int32_t* live) { return live && *live < rows ? *live : rows; }

}  // namespace ANYCHIP_ISA
