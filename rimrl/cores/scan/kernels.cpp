// What rimrl/cores/scan/library.py loads: the kernels one by one, and the loops over time of RIM and LSTM, whose
// products of matrices are those of the BLAS that torch brings. Products are row-major.
#include "kernels.h"

// Only the GNU C library chooses between clones when it loads a library.
#if defined(__x86_64__) && defined(__GLIBC__)
#define KERNEL extern "C" __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#elif defined(_WIN32)
#define KERNEL extern "C" __declspec(dllexport)
#else
#define KERNEL extern "C"
#endif

// c [m, n] = beta c + a [m, k] b [k, n]; with `transposed`, b is [n, k].
template <typename R>
INLINE void product(Gemm<R> gemm, idx m, idx n, idx k, const R* a, const R* b, bool transposed, R beta, R* c) {
    const int M = int(m), N = int(n), K = int(k), ldb = transposed ? K : N;
    const R one = 1;
    gemm(transposed ? "T" : "N", "N", &N, &M, &K, &one, b, &ldb, a, &K, &beta, c, &N);
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

template <typename R> INLINE void rim_forward(const RIMSequence<R>* s) {
    const idx T = s->T, B = s->B, N = s->N, D = s->D, step = B * D, W = s->H * (2 * s->dk + s->dv), V = s->H * s->dv;
    const idx state = (T + 1) * step, kept = s->keep ? T * step : step;
    for (idx t = 0; t < T; ++t) {
        const idx slot = s->keep ? t : 0, rows = slot * N * B;
        R *h = s->h + t * step, *c = s->c + t * step, *gates = s->gates + rows * 4 * D, *mask = s->mask + rows;
        R *h_new = s->h_new + slot * step, *qkv = s->qkv + rows * W, *read = s->read + rows * V;
        R* output = s->output + rows * 2 * D;
        if (s->starts) {
            reset(N, B, D, s->starts + t * B, s->h_start, h, state);
            reset(N, B, D, s->starts + t * B, s->c_start, c, state);
        }
        compete(N, B, D, 4 * D, s->K, (const R*)h, state, s->keys + t * step, T * step, s->reads + t * 4 * step,
                4 * T * step, s->bias, gates, s->share + rows, mask);
        for (idx n = 0; n < N; ++n)
            product(s->gemm, B, 4 * D, D, h + n * state, s->weight_hidden + n * 4 * D * D, false, R(1),
                    gates + n * B * 4 * D);
        lstm(N, B, D, gates, (const R*)c, state, (const R*)mask, s->tanh_c + rows * D, h_new, kept, c + step, state);
        for (idx n = 0; n < N; ++n)
            product(s->gemm, B, W, D, h_new + n * kept, s->weight_qkv + n * D * W, false, R(0), qkv + n * B * W);
        attend(N, B, s->H, s->dk, s->dv, N, idx(0), (const R*)qkv, s->attention + slot * B * s->H * N * N, read);
        for (idx row = 0; row < N * B; ++row) std::memcpy(output + row * 2 * D, s->project_bias, 2 * D * sizeof(R));
        product(s->gemm, N * B, 2 * D, V, read, s->project, true, R(1), output);
        update(N, B, D, output, (const R*)h_new, kept, (const R*)h, state, (const R*)mask, h + step, state,
               s->y + t * N * step);
    }
}

template <typename R> INLINE void rim_backward(const RIMSequence<R>* s) {
    const idx T = s->T, B = s->B, N = s->N, D = s->D, step = B * D, W = s->H * (2 * s->dk + s->dv), V = s->H * s->dv;
    const idx state = (T + 1) * step;
    for (idx t = T - 1; t >= 0; --t) {
        const idx rows = t * N * B;
        const R *mask = s->mask + rows, *share = s->share + rows;
        R *d_output = s->d_output + rows * 2 * D, *d_qkv = s->d_qkv + t * B * W, *d_gates = s->d_gates + 4 * t * step;
        update_backward(N, B, D, s->dy + t * N * step, s->dh, mask, (const R*)s->output + rows * 2 * D, s->dh_new,
                        d_output);
        product(s->gemm, N * B, V, 2 * D, d_output, s->project, false, R(0), s->d_read);
        attend_backward(N, B, s->H, s->dk, s->dv, (const R*)s->qkv + rows * W,
                        (const R*)s->attention + t * B * s->H * N * N, (const R*)s->d_read, d_qkv, T * B * W);
        for (idx n = 0; n < N; ++n)
            product(s->gemm, B, D, W, d_qkv + n * T * B * W, s->weight_qkv + n * D * W, true, R(0),
                    s->d_h_read + n * step);
        lstm_backward(N, B, D, (const R*)s->dh_new, (const R*)s->d_h_read, mask, (const R*)s->gates + rows * 4 * D,
                      (const R*)s->tanh_c + rows * D, (const R*)s->c + t * step, state, s->dc, d_gates, 4 * T * step);
        for (idx n = 0; n < N; ++n)
            product(s->gemm, B, D, 4 * D, d_gates + n * 4 * T * step, s->weight_hidden + n * 4 * D * D, true, R(0),
                    s->dh_gates + n * step);
        compete_backward(N, B, D, 4 * D, (const R*)d_gates, 4 * T * step, s->reads + 4 * t * step, 4 * T * step,
                         s->keys + t * step, T * step, share, mask, (const R*)s->dh_gates, s->d_scores + rows, s->dh);
        if (s->starts) {
            reset_backward(N, B, D, s->starts + t * B, s->dh_start, s->dh);
            reset_backward(N, B, D, s->starts + t * B, s->dc_start, s->dc);
        }
    }
}

template <typename R> INLINE void lstm_sequence_forward(const LSTMSequence<R>* s) {
    const idx T = s->T, B = s->B, N = s->N, D = s->D, step = B * D, state = (T + 1) * step;
    for (idx t = 0; t < T; ++t) {
        const idx rows = (s->keep ? t : 0) * N * B;
        R *h = s->h + t * step, *c = s->c + t * step, *gates = s->gates + rows * 4 * D;
        if (s->starts) {
            reset(N, B, D, s->starts + t * B, s->h_start, h, state);
            reset(N, B, D, s->starts + t * B, s->c_start, c, state);
        }
        for (idx n = 0; n < N; ++n) {
            std::memcpy(gates + n * 4 * step, s->input_gates + 4 * (n * T + t) * step, 4 * step * sizeof(R));
            product(s->gemm, B, 4 * D, D, h + n * state, s->weight_hidden + n * 4 * D * D, false, R(1),
                    gates + n * 4 * step);
        }
        lstm(N, B, D, gates, (const R*)c, state, s->ones, s->tanh_c + rows * D, h + step, state, c + step, state);
        for (idx n = 0; n < N; ++n)
            for (idx b = 0; b < B; ++b)
                std::memcpy(s->y + ((t * B + b) * N + n) * D, h + step + n * state + b * D, D * sizeof(R));
    }
}

template <typename R> INLINE void lstm_sequence_backward(const LSTMSequence<R>* s) {
    const idx T = s->T, B = s->B, N = s->N, D = s->D, step = B * D, state = (T + 1) * step;
    for (idx t = T - 1; t >= 0; --t) {
        const idx rows = t * N * B;
        for (idx n = 0; n < N; ++n)
            for (idx b = 0; b < B; ++b) {
                const R* __restrict dy = s->dy + ((t * B + b) * N + n) * D;
                const R* __restrict dh = s->dh + (n * B + b) * D;
                R* __restrict sum = s->dh_new + (n * B + b) * D;
                SIMD for (idx j = 0; j < D; ++j) sum[j] = dh[j] + dy[j];
            }
        R* d_gates = s->d_gates + 4 * t * step;
        lstm_backward(N, B, D, (const R*)s->dh_new, (const R*)s->nothing, s->ones, (const R*)s->gates + rows * 4 * D,
                      (const R*)s->tanh_c + rows * D, (const R*)s->c + t * step, state, s->dc, d_gates, 4 * T * step);
        for (idx n = 0; n < N; ++n)
            product(s->gemm, B, D, 4 * D, d_gates + n * 4 * T * step, s->weight_hidden + n * 4 * D * D, true, R(0),
                    s->dh + n * step);
        if (s->starts) {
            reset_backward(N, B, D, s->starts + t * B, s->dh_start, s->dh);
            reset_backward(N, B, D, s->starts + t * B, s->dc_start, s->dc);
        }
    }
}

#define ENTRY(NAME, ARGUMENTS_F, ARGUMENTS_D, CALL)      \
    KERNEL void rimrl_##NAME##_float32 ARGUMENTS_F { NAME CALL; } \
    KERNEL void rimrl_##NAME##_float64 ARGUMENTS_D { NAME CALL; }
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
