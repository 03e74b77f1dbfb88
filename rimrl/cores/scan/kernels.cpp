// What rimrl/cores/scan/library.py loads: the kernels, compiled for several sets of instructions. It chooses among them.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "sequences.h"

#if defined(_MSC_VER) && !defined(__clang__)
#define INLINE static __forceinline
#define NOT_INLINE static __declspec(noinline)
#define SIMD
#else
#define INLINE static inline TARGET __attribute__((always_inline))
#define NOT_INLINE static TARGET __attribute__((noinline))
#define SIMD _Pragma("omp simd")
#endif
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are passed between inlined functions alone
#endif
#if defined(_WIN32)
#define KERNEL extern "C" __declspec(dllexport)
#else
#define KERNEL extern "C"
#endif
#define JOIN_3(A, B, C) A##B##_##C
#define JOIN(A, B, C) JOIN_3(A, B, C)
#define EXPORTED(NAME) JOIN(rimrl_, NAME, INSTRUCTIONS)

// The sums of a tile stay in registers: TILE_ROWS times TILE_VECTORS of them, of WIDE_BYTES each. Where there are only
// FEW_ROWS, a tile is wider, since each sum has to wait for its last addition.
#if defined(__x86_64__) && defined(__GNUC__)
#define INSTRUCTIONS avx512
#define TARGET __attribute__((target("arch=x86-64-v4")))
#define WIDE_BYTES 64
#define NARROW_BYTES 32
#define TILE_ROWS 8
#define TILE_VECTORS 1
#define FEW_ROWS 4
#define FEW_VECTORS 4
#include "loops.h"

#define INSTRUCTIONS avx2
#define TARGET __attribute__((target("arch=x86-64-v3")))
#define WIDE_BYTES 32
#define NARROW_BYTES 32
#define TILE_ROWS 6
#define TILE_VECTORS 2
#define FEW_ROWS 3
#define FEW_VECTORS 3
#include "loops.h"
#endif

#define INSTRUCTIONS baseline
#define TARGET
#define WIDE_BYTES 16
#define NARROW_BYTES 16
#define TILE_ROWS 4
#define TILE_VECTORS 2
#define FEW_ROWS 2
#define FEW_VECTORS 4
#include "loops.h"

// For which structures all of this was compiled.
KERNEL const char* rimrl_layout() { return LAYOUT; }

// Which of them this processor has.
KERNEL const char* rimrl_instructions() {
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
#define HAS __builtin_cpu_supports
    const bool avx2 = HAS("avx2") && HAS("fma") && HAS("bmi") && HAS("bmi2");
    if (avx2 && HAS("avx512f") && HAS("avx512bw") && HAS("avx512cd") && HAS("avx512dq") && HAS("avx512vl")) return "avx512";
    if (avx2) return "avx2";
#endif
    return "baseline";
}

// Whether our products of few rows are faster than those of MKL, torch's BLAS on x86, which has its best for Intel's alone.
KERNEL int32_t rimrl_outdoes_blas() {
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
    return __builtin_cpu_is("amd");
#else
    return 0;
#endif
}

// Calls of one kernel that run at the same time, and how a thread finds those that are its own.
struct SharedCalls {
    idx count;
    void (*function)(const void*);
    const void* const* arguments;
    int (*thread)();
    int (*threads)();
};

KERNEL void rimrl_share(void* data) {
    const SharedCalls* calls = static_cast<const SharedCalls*>(data);
    for (idx i = calls->thread(); i < calls->count; i += calls->threads()) calls->function(calls->arguments[i]);
}
