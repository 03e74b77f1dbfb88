// RigLSTM's loop over time; part of `loops.h`.

template <typename R> INLINE void riglstm_forward(const RigLSTMSequence<R>* s) {
    const idx T = s->T, B = s->B, N = s->N, D = s->D, step = B * D, state = (T + 1) * step;
    const idx V = s->V, F = s->F, dk = s->dk, dv = s->dv, W = 2 * dk + dv, kept = s->keep ? T : 1;
    PackedMemory<R> packed = {s->packed, s->is_packed != 0};
    const R one = 1, scale = one / std::sqrt(R(dk));
    const Panels<R> query(N, D, dk, s->query, false, one, &packed), qkv_weight(N, D, W, s->query_key_value, false, one, &packed),
        weight_input(N, F, 4 * D, s->weight_input, false, one, &packed),
        weight_own(N, D, 4 * D, s->weight_own, false, one, &packed),
        weight_others(N, dv, 4 * D, s->weight_others, false, one, &packed),
        soft_matrix(1, 2 * D, dk, s->soft_matrix, false, one, &packed),
        soft_key(1, dk, D, s->soft_key, true, scale, &packed);
    units_first(N, B, D, s->h_first, s->h, state);
    units_first(N, B, D, s->c_first, s->c, state);
    for (idx t = 0; t < T; ++t) {
        const idx slot = s->keep ? t : 0, rows = slot * N * B;
        R *h = s->h + t * step, *c = s->c + t * step, *gates = s->gates + rows * 4 * D, *mask = s->mask + rows;
        R *queries = s->queries + rows * dk, *read = s->read + slot * B * N * F, *qkv = s->qkv + rows * W;
        R *h_new = s->h_new + rows * D, *others = s->others + slot * B * dv;
        R *means = s->means + slot * B * 2 * D, *soft_query = s->soft_query + slot * B * dk;
        R* direction = s->direction + slot * step;
        if (s->starts) {
            reset(N, B, D, s->starts + t * B, s->h_start, h, state);
            reset(N, B, D, s->starts + t * B, s->c_start, c, state);
        }
        for (idx n = 0; n < N; ++n) {
            row_product(B, nullptr, dk, D, h + n * state, D, query[n], false, queries + n * B * dk, dk);
            row_product(B, nullptr, W, D, h + n * state, D, qkv_weight[n], false, qkv + n * B * W, W);
        }
        select_views(N, B, V, dk, F, s->views_kept, (const R*)queries, s->keys + t * B * V * dk, s->views + t * B * V * F,
                     s->attention + slot * B * N * V, s->priority, read);
        choose(N, B, s->K, (const R*)s->priority, mask);
        communicate(N, B, idx(1), dk, dv, s->units_kept, idx(1), (const R*)qkv, s->unit_attention + slot * B * N * N,
                    s->received);
        for (idx n = 0; n < N; ++n) {
            R *g = gates + n * 4 * step, *own = others + n * kept * B * dv;
            std::memcpy(own, s->received + n * B * dv, B * dv * sizeof(R));
            for (idx b = 0; b < B; ++b) std::memcpy(g + b * 4 * D, s->bias + n * 4 * D, 4 * D * sizeof(R));
            row_product(B, nullptr, 4 * D, F, read + n * F, N * F, weight_input[n], true, g, 4 * D);
            row_product(B, nullptr, 4 * D, D, h + n * state, D, weight_own[n], true, g, 4 * D);
            row_product(B, nullptr, 4 * D, dv, own, dv, weight_others[n], true, g, 4 * D);
        }
        lstm(N, B, D, gates, (const R*)c, state, (const R*)mask, s->tanh_c + rows * D, h_new, step, c + step, state);
        soft_means(N, B, D, (const R*)h_new, (const R*)h, state, means);
        std::memcpy(soft_query, s->soft_input + t * B * dk, B * dk * sizeof(R));
        row_product(B, nullptr, dk, 2 * D, means, 2 * D, soft_matrix[0], true, soft_query, dk);
        row_product(B, nullptr, D, dk, soft_query, dk, soft_key[0], false, direction, D);
        soft_update(N, B, D, (const R*)h_new, (const R*)h, state, (const R*)direction, (const R*)mask, s->share + rows,
                    h + step, state, s->y + t * s->y_step);
    }
    rows_first(N, B, D, (const R*)s->h + T * step, state, s->h_last);
    rows_first(N, B, D, (const R*)s->c + T * step, state, s->c_last);
}

// Gradients of the weights, of the steps of one chunk from `t` on.
template <typename R> INLINE void riglstm_chunk_backward(const RigLSTMSequence<R>* s, idx t) {
    const idx T = s->T, B = s->B, N = s->N, D = s->D, step = B * D, steps = T - t < s->chunk ? T - t : s->chunk;
    const idx F = s->F, dk = s->dk, dv = s->dv, W = 2 * dk + dv, rows = steps * B, in_chunk = s->chunk * B;
    for (idx n = 0; n < N; ++n) {
        const R *h = s->h + (n * (T + 1) + t) * step, *d_gates = s->d_gates + n * in_chunk * 4 * D;
        add_gradient(rows, nullptr, D, dk, h, D, s->d_queries + n * in_chunk * dk, dk, s->d_query + n * D * dk);
        add_gradient(rows, nullptr, D, W, h, D, s->d_qkv + n * in_chunk * W, W, s->d_query_key_value + n * D * W);
        add_gradient(rows, nullptr, D, 4 * D, h, D, d_gates, 4 * D, s->d_weight_own + n * D * 4 * D);
        add_gradient(rows, nullptr, dv, 4 * D, s->others + (n * T + t) * B * dv, dv, d_gates, 4 * D,
                     s->d_weight_others + n * dv * 4 * D);
        add_gradient(rows, nullptr, F, 4 * D, s->read + t * B * N * F + n * F, N * F, d_gates, 4 * D,
                     s->d_weight_input + n * F * 4 * D);
        for (idx i = 0; i < rows; ++i) {
            const R* __restrict d = d_gates + i * 4 * D;
            R* __restrict sum = s->d_bias + n * 4 * D;
            SIMD for (idx j = 0; j < 4 * D; ++j) sum[j] += d[j];
        }
    }
    add_gradient(rows, nullptr, 2 * D, dk, s->means + t * B * 2 * D, 2 * D, s->d_soft_input + t * B * dk, dk,
                 s->d_soft_matrix);
    add_gradient(rows, nullptr, D, dk, s->d_direction, D, s->soft_query + t * B * dk, dk, s->d_soft_key);
}

template <typename R> INLINE void riglstm_backward(const RigLSTMSequence<R>* s) {
    const idx T = s->T, B = s->B, N = s->N, D = s->D, step = B * D, state = (T + 1) * step;
    const idx V = s->V, F = s->F, dk = s->dk, dv = s->dv, W = 2 * dk + dv, in_chunk = s->chunk * B;
    const R one = 1, scale = one / std::sqrt(R(dk));
    const Panels<R> query(N, dk, D, s->query, true), qkv_weight(N, W, D, s->query_key_value, true),
        weight_input(N, 4 * D, F, s->weight_input, true), weight_own(N, 4 * D, D, s->weight_own, true),
        weight_others(N, 4 * D, dv, s->weight_others, true), soft_matrix(1, dk, 2 * D, s->soft_matrix, true),
        soft_key(1, D, dk, s->soft_key, false, scale);
    units_first(N, B, D, s->dh_last, s->dh, step);
    units_first(N, B, D, s->dc_last, s->dc, step);
    for (idx t = T - 1; t >= 0; --t) {
        const idx rows = t * N * B, at = t % s->chunk * B;
        const R *h = s->h + t * step, *mask = s->mask + rows, *h_new = s->h_new + rows * D;
        R *d_gates = s->d_gates + at * 4 * D, *d_queries = s->d_queries + at * dk, *d_qkv = s->d_qkv + at * W;
        R *d_direction = s->d_direction + at * D, *d_soft = s->d_soft_input + t * B * dk;
        soft_update_backward(N, B, D, s->dy + t * s->y_step, h_new, h, state, (const R*)s->direction + t * step, mask,
                             (const R*)s->share + rows, s->dh, s->dh_new, d_direction);
        row_product(B, nullptr, dk, D, d_direction, D, soft_key[0], false, d_soft, dk);
        row_product(B, nullptr, 2 * D, dk, d_soft, dk, soft_matrix[0], false, s->d_means, 2 * D);
        soft_means_backward(N, B, D, (const R*)s->d_means, s->dh_new, s->dh);
        // The hidden vectors of inactive units enter the means, but not their memories: those go past the step.
        for (idx row = 0; row < N * B; ++row) {
            R *past = s->dc_past + row * D, *d = s->dc + row * D;
            const bool active = mask[row] != R(0);
            for (idx j = 0; j < D; ++j) {
                past[j] = active ? R(0) : d[j];
                d[j] = active ? d[j] : R(0);
            }
        }
        lstm_backward(N, B, D, (const R*)s->dh_new, s->nothing, s->ones, (const R*)s->gates + rows * 4 * D,
                      (const R*)s->tanh_c + rows * D, (const R*)s->c + t * step, state, s->dc, d_gates, 4 * in_chunk * D);
        SIMD for (idx j = 0; j < N * step; ++j) s->dc[j] += s->dc_past[j];
        for (idx n = 0; n < N; ++n) {
            const R* d = d_gates + n * in_chunk * 4 * D;
            row_product(B, nullptr, D, 4 * D, d, 4 * D, weight_own[n], true, s->dh + n * step, D);
            row_product(B, nullptr, dv, 4 * D, d, 4 * D, weight_others[n], false, s->d_others + n * B * dv, dv);
            row_product(B, nullptr, F, 4 * D, d, 4 * D, weight_input[n], false, s->d_read + n * B * F, F);
        }
        communicate_backward(N, B, idx(1), dk, dv, (const R*)s->qkv + rows * W, (const R*)s->unit_attention + t * B * N * N,
                             (const R*)s->d_others, d_qkv, in_chunk * W, (const R*)nullptr);
        select_views_backward(N, B, V, dk, F, (const R*)s->queries + rows * dk, s->keys + t * B * V * dk,
                              s->views + t * B * V * F, (const R*)s->attention + t * B * N * V, (const R*)s->d_read,
                              d_queries, in_chunk * dk, s->d_keys + t * B * V * dk, s->d_views + t * B * V * F);
        for (idx n = 0; n < N; ++n) {
            row_product(B, nullptr, D, W, d_qkv + n * in_chunk * W, W, qkv_weight[n], true, s->dh + n * step, D);
            row_product(B, nullptr, D, dk, d_queries + n * in_chunk * dk, dk, query[n], true, s->dh + n * step, D);
        }
        if (t % s->chunk == 0) riglstm_chunk_backward(s, t);
        if (s->starts) {
            reset_backward(N, B, D, s->starts + t * B, s->dh_start, s->dh);
            reset_backward(N, B, D, s->starts + t * B, s->dc_start, s->dc);
        }
    }
    rows_first(N, B, D, (const R*)s->dh, step, s->dh_first);
    rows_first(N, B, D, (const R*)s->dc, step, s->dc_first);
}
