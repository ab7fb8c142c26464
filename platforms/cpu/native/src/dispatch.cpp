// Which instruction sets this processor has, and their kernels. Compiled for the oldest processor.
#include <omp.h>
#include <stdio.h>
#include <string.h>
#ifdef __linux__
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#ifdef __APPLE__
#include <sys/sysctl.h>
#endif
#ifdef ANYCHIP_X86
#include <cpuid.h>
#endif

#define ANYCHIP_ISA dispatch
#include "threads.h"

extern const AnychipKernels anychip_table_amx, anychip_table_avx512_bf16, anychip_table_avx512_vnni,
    anychip_table_avx512, anychip_table_avx2_vnni, anychip_table_avx2, anychip_table_neon_i8mm,
    anychip_table_neon_dotprod, anychip_table_neon, anychip_table_portable;  // those that were compiled

namespace {

struct Isa {
    const AnychipKernels* table;
    bool available;
};

#if defined(ANYCHIP_X86)

bool has_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

[[maybe_unused]] bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

[[maybe_unused]] bool has_vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }

[[maybe_unused]] bool has_bf16() { return has_vnni() && __builtin_cpu_supports("avx512bf16"); }

#ifdef ANYCHIP_EMULATED_ISAS  // a test's build: what they run is plain C++

bool has_avx_vnni() { return has_avx2(); }
bool has_amx() { return has_bf16(); }

#else

[[maybe_unused]] bool has_avx_vnni() {
    unsigned a, b, c, d;
    return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}

// The processor must have tiles, and the kernel must give this process their state, 8 KiB a thread, which it does when
// asked (Linux 5.16, "Using XSTATE features in user space applications").
[[maybe_unused]] bool has_amx() {
#ifdef __linux__
    constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    unsigned a, b, c, d;
    if (!has_bf16() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    const bool bf16 = d >> 22 & 1, tile = d >> 24 & 1, int8 = d >> 25 & 1;
    return tile && bf16 && int8 && syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
    return false;
#endif
}

#endif

#elif defined(__aarch64__)

#ifdef __linux__
[[maybe_unused]] bool has_dotprod() { return getauxval(AT_HWCAP) >> 20 & 1; }
[[maybe_unused]] bool has_i8mm() { return has_dotprod() && (getauxval(AT_HWCAP2) >> 13 & 3) == 3; }  // and bfloat16
#elif defined(__APPLE__)
bool has(const char* feature) {
    int found = 0;
    size_t size = sizeof found;
    return sysctlbyname(feature, &found, &size, nullptr, 0) == 0 && found;
}
[[maybe_unused]] bool has_dotprod() { return has("hw.optional.arm.FEAT_DotProd"); }
[[maybe_unused]] bool has_i8mm() {
    return has_dotprod() && has("hw.optional.arm.FEAT_I8MM") && has("hw.optional.arm.FEAT_BF16");
}
#else
[[maybe_unused]] bool has_dotprod() { return false; }
[[maybe_unused]] bool has_i8mm() { return false; }
#endif

#endif

const Isa ISAS[] = {  // best first
#ifdef ANYCHIP_HAS_amx
    {&anychip_table_amx, has_amx()},
#endif
#ifdef ANYCHIP_HAS_avx512_bf16
    {&anychip_table_avx512_bf16, has_bf16()},
#endif
#ifdef ANYCHIP_HAS_avx512_vnni
    {&anychip_table_avx512_vnni, has_vnni()},
#endif
#ifdef ANYCHIP_HAS_avx512
    {&anychip_table_avx512, has_avx512()},
#endif
#ifdef ANYCHIP_HAS_avx2_vnni
    {&anychip_table_avx2_vnni, has_avx_vnni()},
#endif
#ifdef ANYCHIP_HAS_avx2
    {&anychip_table_avx2, has_avx2()},
#endif
#ifdef ANYCHIP_HAS_neon_i8mm
    {&anychip_table_neon_i8mm, has_i8mm()},
#endif
#ifdef ANYCHIP_HAS_neon_dotprod
    {&anychip_table_neon_dotprod, has_dotprod()},
#endif
#ifdef ANYCHIP_HAS_neon
    {&anychip_table_neon, true},
#endif
#ifdef ANYCHIP_HAS_portable
    {&anychip_table_portable, true},
#endif
};

// The start of what this thread reads in the first command from `next` on that says what it reads; `next` becomes the
// one behind it.
AnychipAhead ahead_of(const AnychipCommand* commands, int64_t count, int64_t* next, AnychipTeam team) {
    constexpr int64_t MOST = 64 << 10;  // bytes, much less than a second-level cache
    while (*next < count && !commands[*next].reads) ++*next;
    if (*next == count) return {};
    const AnychipCommand& c = commands[(*next)++];
    const int64_t first = c.parts * team.me / team.all, end = c.parts * (team.me + 1) / team.all;
    const int64_t bytes = (end - first) * c.part_bytes;
    const char* from = static_cast<const char*>(c.reads) + first * c.part_bytes;
    return {from, from + (bytes < MOST ? bytes : MOST)};
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void anychip_cpu_run(const AnychipCommand* commands, int64_t count,
                                                                       int64_t threads) {
    AnychipMeeting meeting;
#pragma omp parallel num_threads(static_cast<int>(threads))
    {
        AnychipAhead ahead;
        const AnychipTeam team = {omp_get_thread_num(), omp_get_num_threads(), &meeting, &ahead};
        int64_t next = 0;
        ahead = ahead_of(commands, count, &next, team);
        for (int64_t i = 0; i < count; ++i) {
            commands[i].kernel(commands[i].arguments, team);
            if (i + 1 == next) ahead = ahead_of(commands, count, &next, team);
            dispatch::barrier(team);
        }
    }
}

extern "C" __attribute__((visibility("default"))) const char* anychip_cpu_isas(void) {
    static char names[128];
    if (!names[0]) {
        char made[128] = "";
        for (const Isa& isa : ISAS)
            if (isa.available) {
                if (made[0]) strcat(made, " ");
                strcat(made, isa.table->name);
            }
        memcpy(names, made, sizeof names);
    }
    return names;
}

extern "C" __attribute__((visibility("default"))) const AnychipKernels* anychip_cpu_kernels(const char* isa) {
    for (const Isa& known : ISAS)
        if (known.available && strcmp(known.table->name, isa) == 0) return known.table;
    return nullptr;
}

extern "C" __attribute__((visibility("default"))) const char* anychip_cpu_sizes(void) {
    static char text[128];
    const size_t sizes[] = {
        sizeof(AnychipKernels), sizeof(AnychipCommand), sizeof(AnychipPack),      sizeof(AnychipLinear),
        sizeof(AnychipNorm),    sizeof(AnychipGated),   sizeof(AnychipGather),    sizeof(AnychipRope),
        sizeof(AnychipLogits),  sizeof(AnychipSample),  sizeof(AnychipRoute),     sizeof(AnychipCombine),
        sizeof(AnychipPrepare), sizeof(AnychipAttention), sizeof(AnychipScreen),
        sizeof(AnychipLargest)};
    char made[sizeof text], *end = made;
    for (const size_t size : sizes) end += snprintf(end, 8, "%zu ", size);
    memcpy(text, made, sizeof text);
    return text;
}

extern "C" __attribute__((visibility("default"))) void anychip_cpu_advise(void* start, int64_t bytes) {
#ifdef __linux__
    const uintptr_t page = 2 << 20, first = (reinterpret_cast<uintptr_t>(start) + page - 1) / page * page,
                    end = (reinterpret_cast<uintptr_t>(start) + static_cast<uintptr_t>(bytes)) / page * page;
    if (first < end) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#else
    (void)start, (void)bytes;
#endif
}
