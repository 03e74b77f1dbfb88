// Written by rimrl/cores/scan/layout.py, which describes what is here; change that, and run it.
#pragma once
#include <cstdint>

typedef int64_t idx;
static const idx MAX_UNITS = 64;

template <typename R>
using Gemm = void (*)(const char*, const char*, const int*, const int*, const int*, const R*, const R*,
                      const int*, const R*, const int*, const R*, R*, const int*);

template <typename R> struct RIMSequence {
    idx T, B, N, D;  // time steps, rows, units, width of a unit
    idx H, dk, dv;  // communication: heads, width of a key and of a value
    idx K, keep;  // active units; 0: all steps share one slot of what only the backward pass reads
    Gemm<R> gemm;  // the product of matrices of torch's BLAS
    const uint8_t *starts;  // [T, B], or null: no episode starts
    const R *h_start, *c_start;  // [N, D]
    const R *keys, *reads;  // [N, T, B, D], [N, T, B, 4 D]: the input, met by the units' queries and gates
    const R *bias, *weight_hidden, *weight_qkv;  // [N, 4 D], [N, D, 4 D], [N, D, H (2 dk + dv)]
    const R *project, *project_bias;  // [2 D, H dv], [2 D]
    R *h, *c, *y;  // [N, T + 1, B, D], the same, [T, B, N, D]
    R *gates, *share, *mask, *tanh_c;  // [T, N, B, 4 D], [T, N, B], [T, N, B], [T, N, B, D]
    R *h_new, *qkv;  // [N, T, B, D], [T, N, B, H (2 dk + dv)]
    R *attention, *read, *output;  // [T, B, H, N, N], [T, N B, H dv], [T, N B, 2 D]
    const R *dy;  // [T, B, N, D]; this and all below are for the backward pass
    R *dh, *dc;  // [N, B, D]: of the last state, then of the first
    R *dh_start, *dc_start;  // [N, D], added to
    R *d_gates, *d_scores;  // [N, T, B, 4 D], [T, N, B]
    R *d_qkv, *d_output;  // [N, T, B, H (2 dk + dv)], [T, N B, 2 D]
    R *dh_new, *d_h_read, *dh_gates, *d_read;  // scratch: three times [N, B, D], then [N B, H dv]
};

template <typename R> struct LSTMSequence {
    idx T, B, N, D, keep;  // as above
    Gemm<R> gemm;  // the product of matrices of torch's BLAS
    const uint8_t *starts;  // [T, B], or null: no episode starts
    const R *h_start, *c_start;  // [N, D]
    const R *input_gates, *weight_hidden, *ones;  // [N, T, B, 4 D], [N, D, 4 D], [N, B]
    R *h, *c, *y;  // [N, T + 1, B, D], the same, [T, B, N, D]
    R *gates, *tanh_c;  // [T, N, B, 4 D], [T, N, B, D]
    const R *dy;  // [T, B, N, D]; this and all below are for the backward pass
    R *dh, *dc;  // [N, B, D]: of the last state, then of the first
    R *dh_start, *dc_start;  // [N, D], added to
    R *d_gates, *dh_new, *nothing;  // [N, T, B, 4 D], [N, B, D], zeros [N, B, D]
};
