// The loops over time, what they have in common, and what is exported, for one set of instructions. `kernels.cpp` defines
// which, and how wide vectors and tiles are; this file undefines it.
// Products of small matrices are ours, those of an LSTM the BLAS' that torch brings. All are row-major.
namespace INSTRUCTIONS {
#include "kernels.h"

// c [count, n] = a [count, k] b, or added to c, for packed b [k, n]; rows are those in a list, or all if it is null.
template <typename R>
NOT_INLINE void row_product(idx count, const idx* rows, idx n, idx k, const R* a, idx lda, const R* panels, bool add, R* c,
                            idx ldc) {
    if (count <= FEW_ROWS)
        product_strips<R, FEW_ROWS, FEW_VECTORS>(count, rows, n, k, a, lda, panels, add, c, ldc);
    else
        product_strips<R, TILE_ROWS, TILE_VECTORS>(count, rows, n, k, a, lda, panels, add, c, ldc);
}

// c [k, n] += the transpose of a [count, k] times b [count, n]; rows as above.
template <typename R>
NOT_INLINE void add_gradient(idx count, const idx* rows, idx k, idx n, const R* a, idx lda, const R* b, idx ldb, R* c) {
    gradient_strips<R, TILE_ROWS, TILE_VECTORS>(count, rows, k, n, a, lda, b, ldb, c);
}

// c [m, n] = beta c + a [m, k] b [k, n]; with `transposed`, b is [n, k].
template <typename R>
INLINE void product(Gemm<R> gemm, idx m, idx n, idx k, const R* a, const R* b, bool transposed, R beta, R* c) {
    const int M = int(m), N = int(n), K = int(k), ldb = transposed ? K : N;
    const R one = 1;
    gemm(transposed ? "T" : "N", "N", &N, &M, &K, &one, b, &ldb, a, &K, &beta, c, &N);
}

// The attention of `attend` and `attend_backward`, compiled once for all that call it.
template <typename R>
NOT_INLINE void communicate(idx N, idx B, idx H, idx dk, idx dv, idx kept, idx others_only, const R* qkv, R* attention,
                            R* read) {
    attend(N, B, H, dk, dv, kept, others_only, qkv, attention, read);
}
template <typename R>
NOT_INLINE void communicate_backward(idx N, idx B, idx H, idx dk, idx dv, const R* qkv, const R* attention,
                                     const R* d_read, R* d_qkv, idx stride, const R* mask) {
    attend_backward(N, B, H, dk, dv, qkv, attention, d_read, d_qkv, stride, mask);
}

#include "joined.h"

// States lie row by row for others, [B, N, D], and unit by unit here, [N, B, D], with `stride` from unit to unit.
template <typename R> INLINE void units_first(idx N, idx B, idx D, const R* rows, R* units, idx stride) {
    for (idx n = 0; n < N; ++n)
        for (idx b = 0; b < B; ++b) std::memcpy(units + n * stride + b * D, rows + (b * N + n) * D, D * sizeof(R));
}
template <typename R> INLINE void rows_first(idx N, idx B, idx D, const R* units, idx stride, R* rows) {
    for (idx n = 0; n < N; ++n)
        for (idx b = 0; b < B; ++b) std::memcpy(rows + (b * N + n) * D, units + n * stride + b * D, D * sizeof(R));
}

// Rows that start an episode go back to the initial state.
template <typename R>
INLINE void reset(idx N, idx B, idx D, const uint8_t* starts, const R* initial, R* state, idx stride) {
    for (idx b = 0; b < B; ++b)
        if (starts[b])
            for (idx n = 0; n < N; ++n)
                std::memcpy(state + n * stride + b * D, initial + n * D, D * sizeof(R));
}

template <typename R> INLINE void reset_backward(idx N, idx B, idx D, const uint8_t* starts, R* d_initial, R* d_state) {
    for (idx b = 0; b < B; ++b)
        if (starts[b])
            for (idx n = 0; n < N; ++n) {
                R* __restrict d = d_state + (n * B + b) * D;
                R* __restrict d0 = d_initial + n * D;
                SIMD for (idx j = 0; j < D; ++j) {
                    d0[j] += d[j];
                    d[j] = 0;
                }
            }
}

// The rows of those units that are active, of `count` rows each with a mask; unit n's are the first `counts[n]` after n `count`.
template <typename R>
INLINE void list_active(idx N, idx count, const R* mask, idx* rows, idx* counts) {
    for (idx n = 0; n < N; ++n) {
        counts[n] = 0;
        for (idx b = 0; b < count; ++b)
            if (mask[n * count + b] != R(0)) rows[n * count + counts[n]++] = b;
    }
}

// Those of unit n of N in `steps` steps of B rows each; returns how many.
template <typename R> INLINE idx list_active_of(idx n, idx N, idx steps, idx B, const R* mask, idx* rows) {
    idx count = 0;
    for (idx t = 0; t < steps; ++t)
        for (idx b = 0; b < B; ++b)
            if (mask[(t * N + n) * B + b] != R(0)) rows[count++] = t * B + b;
    return count;
}

// sum [n] += a [n].
template <typename R> INLINE void add_to(idx n, const R* __restrict a, R* __restrict sum) {
    SIMD for (idx j = 0; j < n; ++j) sum[j] += a[j];
}

// sum [n] += the rows of a list, [count, n].
template <typename R> INLINE void add_rows(idx count, const idx* rows, idx n, const R* a, R* __restrict sum) {
    for (idx i = 0; i < count; ++i) {
        const R* __restrict row = a + rows[i] * n;
        SIMD for (idx j = 0; j < n; ++j) sum[j] += row[j];
    }
}

#include "units.h"

#include "brims.h"
#include "lstm.h"
#include "riglstm.h"
#include "rim.h"
#include "rmc.h"
}  // namespace INSTRUCTIONS

#define ENTRY(NAME, ARGUMENTS_F, ARGUMENTS_D, CALL)                                             \
    KERNEL TARGET void EXPORTED(NAME##_float32) ARGUMENTS_F { INSTRUCTIONS::NAME CALL; } \
    KERNEL TARGET void EXPORTED(NAME##_float64) ARGUMENTS_D { INSTRUCTIONS::NAME CALL; }
#define BOTH(NAME, LIST, CALL) ENTRY(NAME, LIST(float), LIST(double), CALL)

#define A2(R) (idx N, idx B, idx D, R* gates, const R* c, idx cs, const R* mask, R* tc, R* hn, idx hns, R* co, idx cos)
BOTH(lstm, A2, (N, B, D, gates, c, cs, mask, tc, hn, hns, co, cos))
#define A3(R) (idx N, idx B, idx H, idx dk, idx dv, idx kept, idx others, const R* qkv, R* attention, R* read)
BOTH(attend, A3, (N, B, H, dk, dv, kept, others, qkv, attention, read))
#define A6(R) (idx N, idx B, idx H, idx dk, idx dv, const R* qkv, const R* attention, const R* d_read, R* d_qkv, idx ds)
BOTH(attend_backward, A6, (N, B, H, dk, dv, qkv, attention, d_read, d_qkv, ds))
#define A7(R) (idx N, idx B, idx D, const R* dh_new, const R* d_read, const R* mask, const R* a, const R* tc, const R* c, idx cs, R* dc, R* dg, idx dgs)
BOTH(lstm_backward, A7, (N, B, D, dh_new, d_read, mask, a, tc, c, cs, dc, dg, dgs))
#define S1(R) (const RIMSequence<R>* s)
BOTH(rim_forward, S1, (s))
BOTH(rim_backward, S1, (s))
#define S2(R) (const LSTMSequence<R>* s)
BOTH(lstm_sequence_forward, S2, (s))
BOTH(lstm_sequence_backward, S2, (s))
#define S4(R) (const RigLSTMSequence<R>* s)
BOTH(riglstm_forward, S4, (s))
BOTH(riglstm_backward, S4, (s))
#define S5(R) (const RMCSequence<R>* s)
BOTH(rmc_forward, S5, (s))
BOTH(rmc_backward, S5, (s))
#define S3(R) (const BRIMsLayer<R>* layers)
BOTH(brims_forward, S3, (layers))
BOTH(brims_backward, S3, (layers))
#define A9(R) (idx N, idx B, idx K, const R* priority, R* mask)
BOTH(choose, A9, (N, B, K, priority, mask))
#define A10(R) (idx N, idx B, idx V, idx dk, idx F, idx kept, const R* q, const R* k, const R* v, R* attention, R* mean, R* read)
BOTH(select_views, A10, (N, B, V, dk, F, kept, q, k, v, attention, mean, read))
#define A11(R) (idx N, idx B, idx V, idx dk, idx F, const R* q, const R* k, const R* v, const R* attention, const R* d_read, R* dq, idx dqs, R* d_k, R* d_v)
BOTH(select_views_backward, A11, (N, B, V, dk, F, q, k, v, attention, d_read, dq, dqs, d_k, d_v))
#define A12(R) (idx N, idx B, idx D, const R* hn, const R* h, idx hs, R* means)
BOTH(soft_means, A12, (N, B, D, hn, h, hs, means))
#define A13(R) (idx N, idx B, idx D, const R* hn, const R* h, idx hs, const R* w, const R* mask, R* share, R* ho, idx hos, R* y)
BOTH(soft_update, A13, (N, B, D, hn, h, hs, w, mask, share, ho, hos, y))
#define A14(R) (idx N, idx B, idx D, const R* dy, const R* hn, const R* h, idx hs, const R* w, const R* mask, const R* share, R* dh, R* dhn, R* dw)
BOTH(soft_update_backward, A14, (N, B, D, dy, hn, h, hs, w, mask, share, dh, dhn, dw))
#define A15(R) (idx N, idx B, idx D, const R* d_means, R* dhn, R* dh)
BOTH(soft_means_backward, A15, (N, B, D, d_means, dhn, dh))

#undef INSTRUCTIONS
#undef TARGET
#undef WIDE_BYTES
#undef NARROW_BYTES
#undef TILE_ROWS
#undef TILE_VECTORS
#undef FEW_ROWS
#undef FEW_VECTORS
