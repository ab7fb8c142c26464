// Which instruction sets this processor has, and their kernels. Compiled for the oldest processor.
#include <omp.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#define ANYCHIP_ISA dispatch
#include "threads.h"

extern const AnychipKernels anychip_table_portable;
#ifdef ANYCHIP_X86
extern const AnychipKernels anychip_table_avx2, anychip_table_avx512;
#ifdef ANYCHIP_AVX512_VNNI
extern const AnychipKernels anychip_table_avx512_vnni;
#endif
#ifdef ANYCHIP_AVX512_BF16
extern const AnychipKernels anychip_table_avx512_bf16;
#endif
#endif

namespace {

struct Isa {
    const AnychipKernels* table;
    bool available;
};

bool has_avx2() {
#ifdef ANYCHIP_X86
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#else
    return false;
#endif
}

bool has_avx512() {
#ifdef ANYCHIP_X86
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
    return false;
#endif
}

#ifdef ANYCHIP_AVX512_VNNI
bool has_vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
#endif

const Isa ISAS[] = {
#ifdef ANYCHIP_AVX512_BF16
    {&anychip_table_avx512_bf16, has_vnni() && __builtin_cpu_supports("avx512bf16")},
#endif
#ifdef ANYCHIP_AVX512_VNNI
    {&anychip_table_avx512_vnni, has_vnni()},
#endif
#ifdef ANYCHIP_X86
    {&anychip_table_avx512, has_avx512()},
    {&anychip_table_avx2, has_avx2()},
#endif
    {&anychip_table_portable, true},
};

}  // namespace

extern "C" __attribute__((visibility("default"))) void anychip_cpu_run(const AnychipCommand* commands, int64_t count,
                                                                       int64_t threads) {
    AnychipMeeting meeting;
#pragma omp parallel num_threads(static_cast<int>(threads))
    {
        const AnychipTeam team = {omp_get_thread_num(), omp_get_num_threads(), &meeting};
        for (int64_t i = 0; i < count; ++i) {
            commands[i].kernel(commands[i].arguments, team);
            dispatch::barrier(team);
        }
    }
}

extern "C" __attribute__((visibility("default"))) const char* anychip_cpu_isas(void) {
    static char names[64];
    if (!names[0]) {
        char made[64] = "";
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

extern "C" __attribute__((visibility("default"))) int64_t anychip_cpu_table_bytes(void) {
    return sizeof(AnychipKernels);
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
