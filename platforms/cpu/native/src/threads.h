// Work shared out among the threads of a team: OpenMP's, of one parallel region. torch brings the same library
// (libgomp.so.1), so both use one pool.
#pragma once

#include <sched.h>
#include <stdint.h>

#include "anychip_cpu.h"

// What the threads of a team share. Each lies on a cache line of its own.
struct AnychipMeeting {
    alignas(64) int64_t waiting = 0;
    alignas(64) int64_t past = 0;  // barriers that are behind
    alignas(64) int64_t ticket = 0;
};

// Bytes that a thread will read in a later command, and are not on their way yet.
struct AnychipAhead {
    const char* from = nullptr;
    const char* end = nullptr;
};

namespace ANYCHIP_ISA {

// A moment of waiting, in which two lines of what comes are fetched.
static inline void pause(AnychipAhead* ahead) {
    if (ahead && ahead->from < ahead->end) {
        __builtin_prefetch(ahead->from, 0, 2), __builtin_prefetch(ahead->from + 64, 0, 2);
        ahead->from += 128;
        return;
    }
#ifdef ANYCHIP_X86
    __builtin_ia32_pause();
#endif
}

// Every thread of the team waits for the others here. OpenMP's own barrier spins for milliseconds, which costs whole
// time slices where other processes want the cores; this one soon gives its core away.
static inline void barrier(AnychipTeam team) {
    constexpr int64_t SPINS = 4096;
    if (team.all == 1) {
        team.meeting->ticket = 0;
        return;
    }
    AnychipMeeting& m = *team.meeting;
    const int64_t past = __atomic_load_n(&m.past, __ATOMIC_RELAXED);
    if (__atomic_add_fetch(&m.waiting, 1, __ATOMIC_ACQ_REL) == team.all) {
        m.waiting = 0;
        m.ticket = 0;
        __atomic_store_n(&m.past, past + 1, __ATOMIC_RELEASE);
        return;
    }
    for (int64_t spins = 0; __atomic_load_n(&m.past, __ATOMIC_ACQUIRE) == past; ++spins) {
        if (spins >= SPINS)
            sched_yield();
        else
            pause(team.ahead);
    }
}

// The next of the tasks that the team's threads take one by one, from 0 on. A barrier starts them anew.
static inline int64_t next_task(AnychipTeam team) {
    return __atomic_fetch_add(&team.meeting->ticket, 1, __ATOMIC_RELAXED);
}

// Calls body(first, end) with this thread's contiguous share of 0..count.
template <typename Body>
static inline void share(int64_t count, AnychipTeam team, const Body& body) {
    if (team.me >= team.all) return;
    const int64_t first = count * team.me / team.all, end = count * (team.me + 1) / team.all;
    if (first < end) body(first, end);
}

// The team, or its first thread alone where there are too few elements for more.
static inline AnychipTeam worth(int64_t elements, AnychipTeam team) {
    constexpr int64_t ALONE = 8192;
    return {team.me, elements < ALONE ? 1 : team.all, team.meeting, nullptr};
}

static inline int64_t live_rows(int64_t rows, const int32_t* live) { return live && *live < rows ? *live : rows; }

}  // namespace ANYCHIP_ISA
