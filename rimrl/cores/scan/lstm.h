// The loop over time of N independent LSTMs, given what the input adds to their gates. Part of `loops.h`.

template <typename R> INLINE void lstm_sequence_forward(const LSTMSequence<R>* s) {
    const idx T = s->T, B = s->B, N = s->N, D = s->D, step = B * D, state = (T + 1) * step;
    const Panels<R> weight_hidden(s->gemm ? 0 : N, D, 4 * D, s->weight_hidden, false);
    units_first(N, B, D, s->h_first, s->h, state);
    units_first(N, B, D, s->c_first, s->c, state);
    for (idx t = 0; t < T; ++t) {
        const idx rows = (s->keep ? t : 0) * N * B;
        R *h = s->h + t * step, *c = s->c + t * step, *gates = s->gates + rows * 4 * D;
        if (s->starts) {
            reset(N, B, D, s->starts + t * B, s->h_start, h, state);
            reset(N, B, D, s->starts + t * B, s->c_start, c, state);
        }
        for (idx n = 0; n < N; ++n) {
            std::memcpy(gates + n * 4 * step, s->input_gates + 4 * (n * T + t) * step, 4 * step * sizeof(R));
            if (s->gemm)
                product(s->gemm, B, 4 * D, D, h + n * state, s->weight_hidden + n * 4 * D * D, false, R(1),
                        gates + n * 4 * step);
            else
                row_product(B, nullptr, 4 * D, D, h + n * state, D, weight_hidden[n], true, gates + n * 4 * step, 4 * D);
        }
        lstm(N, B, D, gates, (const R*)c, state, s->ones, s->tanh_c + rows * D, h + step, state, c + step, state);
        rows_first(N, B, D, (const R*)h + step, state, s->y + t * s->y_step);
    }
    rows_first(N, B, D, (const R*)s->h + T * step, state, s->h_last);
    rows_first(N, B, D, (const R*)s->c + T * step, state, s->c_last);
}

template <typename R> INLINE void lstm_sequence_backward(const LSTMSequence<R>* s) {
    const idx T = s->T, B = s->B, N = s->N, D = s->D, step = B * D, state = (T + 1) * step;
    const Panels<R> weight_hidden(s->gemm ? 0 : N, 4 * D, D, s->weight_hidden, true);
    units_first(N, B, D, s->dh_last, s->dh, step);
    units_first(N, B, D, s->dc_last, s->dc, step);
    for (idx t = T - 1; t >= 0; --t) {
        const idx rows = t * N * B;
        for (idx n = 0; n < N; ++n)
            for (idx b = 0; b < B; ++b) {
                const R* __restrict dy = s->dy + t * s->y_step + (b * N + n) * D;
                const R* __restrict dh = s->dh + (n * B + b) * D;
                R* __restrict sum = s->dh_new + (n * B + b) * D;
                SIMD for (idx j = 0; j < D; ++j) sum[j] = dh[j] + dy[j];
            }
        R* d_gates = s->d_gates + 4 * t * step;
        lstm_backward(N, B, D, (const R*)s->dh_new, (const R*)s->nothing, s->ones, (const R*)s->gates + rows * 4 * D,
                      (const R*)s->tanh_c + rows * D, (const R*)s->c + t * step, state, s->dc, d_gates, 4 * T * step);
        for (idx n = 0; n < N; ++n)
            if (s->gemm)
                product(s->gemm, B, D, 4 * D, d_gates + n * 4 * T * step, s->weight_hidden + n * 4 * D * D, true, R(0),
                        s->dh + n * step);
            else
                row_product(B, nullptr, D, 4 * D, d_gates + n * 4 * T * step, 4 * D, weight_hidden[n], false,
                            s->dh + n * step, D);
        if (s->starts) {
            reset_backward(N, B, D, s->starts + t * B, s->dh_start, s->dh);
            reset_backward(N, B, D, s->starts + t * B, s->dc_start, s->dc);
        }
    }
    rows_first(N, B, D, (const R*)s->dh, step, s->dh_first);
    rows_first(N, B, D, (const R*)s->dc, step, s->dc_first);
}
