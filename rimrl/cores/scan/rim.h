// The loop over time of a RIM that reads one element of the input with one head, or reads it as it is. Part of `loops.h`.

template <typename R> struct RIMPanels {
    Panels<R> key, value, query, weight_input;
    UnitsPanels<R> units;
};

template <typename R> RIMPanels<R> rim_panels(const RIMSequence<R>* s, bool back) {
    const idx N = s->N, Q = s->key_size, U = s->value_size, attends = s->attends;
    PackedMemory<R> packed = {back ? nullptr : s->packed, s->is_packed != 0};
    const R scale = back || !attends ? R(1) : R(1) / std::sqrt(R(Q));
    return {panels_of(back, attends, s->I, Q, s->key, packed, scale), panels_of(back, idx(1), s->I, U, s->value, packed),
            panels_of(!back, attends * N, s->D, Q, s->query, packed), panels_of(back, N, U, s->G, s->weight_input, packed),
            units_panels(s, back, packed)};
}

template <typename R> INLINE void rim_forward(const RIMSequence<R>* s) {
    const idx T = s->T, B = s->B, N = s->N, D = s->D, G = s->G, step = B * D, state = (T + 1) * step;
    const idx Q = s->key_size, U = s->value_size, key_steps = s->keep ? T : s->chunk;
    const RIMPanels<R> panels = rim_panels(s, false);
    const std::unique_ptr<idx[]> active(new idx[N * B]);
    std::vector<R> scratch(N * B);
    units_first(N, B, D, s->h_first, s->h, state);
    units_first(N, B, D, s->c_first, s->c, state);
    for (idx t = 0; t < T; ++t) {
        const idx at = (s->keep ? t : 0) * N * B, in_chunk = t % s->chunk;
        R *h = s->h + t * step, *c = s->c + t * step, *gates = s->gates + at * G, *share = s->share + at, *mask = s->mask + at;
        R *unit_keys = s->unit_keys + (s->keep ? t : in_chunk) * step, *reads = s->reads + in_chunk * B * G;
        if (in_chunk == 0) {
            const idx count = (T - t < s->chunk ? T - t : s->chunk) * B;
            const R* x = s->x + t * B * s->I;
            R *keys = s->keys + (s->keep ? t * B * Q : 0), *values = s->values + (s->keep ? t * B * U : 0);
            row_product(count, nullptr, U, s->I, x, s->I, panels.value[0], false, values, U);
            if (s->attends) row_product(count, nullptr, Q, s->I, x, s->I, panels.key[0], false, keys, Q);
            for (idx n = 0; n < N; ++n) {
                row_product(count, nullptr, G, U, values, U, panels.weight_input[n], false, reads + n * s->chunk * B * G, G);
                if (s->attends)
                    row_product(count, nullptr, D, Q, keys, Q, panels.query[n], false, unit_keys + n * key_steps * step, D);
            }
        }
        if (s->starts) {
            reset(N, B, D, s->starts + t * B, s->h_start, h, state);
            reset(N, B, D, s->starts + t * B, s->c_start, c, state);
        }
        if (s->attends)
            compete(N, B, D, s->K, s->over_units, (const R*)h, state, (const R*)unit_keys, key_steps * step, scratch.data(),
                    share, mask);
        else
            for (idx j = 0; j < N * B; ++j) share[j] = mask[j] = R(1);
        read_shares(N, B, G, (const R*)share, s->read_scale ? s->read_scale + t * N * B : nullptr, (const R*)reads,
                    s->chunk * B * G, s->bias, gates);
        units_forward(s, panels.units, active.get(), t, s->y + t * s->y_step);
    }
    rows_first(N, B, D, (const R*)s->h + T * step, state, s->h_last);
    rows_first(N, B, D, (const R*)s->c + T * step, state, s->c_last);
}

// Gradients of what the gates and the queries are made of, of the steps of one chunk from `t` on.
template <typename R>
INLINE void rim_chunk_backward(const RIMSequence<R>* s, idx t, const RIMPanels<R>& panels, idx* active) {
    const idx T = s->T, B = s->B, N = s->N, D = s->D, G = s->G, I = s->I;
    const idx Q = s->key_size, U = s->value_size, rows = (T - t < s->chunk ? T - t : s->chunk) * B;
    const R* x = s->x + t * B * I;
    if (s->attends) std::memset(s->d_keys, 0, rows * Q * sizeof(R));
    for (idx n = 0; n < N; ++n) {
        const R* h = s->h + (n * (T + 1) + t) * B * D;
        R* d_gates = s->d_gates + n * s->chunk * B * G;
        const idx count = list_active_of(n, N, rows / B, B, (const R*)s->mask + t * N * B, active);
        for (idx i = 0; s->attends && i < count; ++i) {
            const idx at = ((t + active[i] / B) * N + n) * B + active[i] % B;
            const R share = s->share[at] * (s->read_scale ? s->read_scale[at] : R(1));
            R* __restrict d = d_gates + active[i] * G;
            SIMD for (idx j = 0; j < G; ++j) d[j] *= share;
        }
        add_gradient(count, active, U, G, s->values + t * B * U, U, d_gates, G, s->d_weight_input + n * U * G);
        if (!s->attends) continue;
        // Where units share the input out, those that lose have a gradient as well.
        const idx asking = s->over_units ? rows : count, *who = s->over_units ? nullptr : active;
        for (idx i = 0; i < asking; ++i) {
            const idx row = who ? who[i] : i;
            const R d_score = s->d_scores[(row / B * N + n) * B + row % B];
            const R* __restrict h_row = h + row * D;
            R* __restrict scaled = s->h_scaled + row * D;
            SIMD for (idx j = 0; j < D; ++j) scaled[j] = d_score * h_row[j];
        }
        add_gradient(asking, who, D, Q, s->h_scaled, D, s->keys + t * B * Q, Q, s->d_query + n * D * Q);
        row_product(asking, who, Q, D, s->h_scaled, D, panels.query[n], true, s->d_keys, Q);
    }
    add_gradient(rows, nullptr, I, U, x, I, s->d_values, U, s->d_value);
    if (s->dx) row_product(rows, nullptr, I, U, s->d_values, U, panels.value[0], false, s->dx + t * B * I, I);
    if (!s->attends) return;
    const R scale = R(1) / std::sqrt(R(Q));
    SIMD for (idx j = 0; j < rows * Q; ++j) s->d_keys[j] *= scale;
    add_gradient(rows, nullptr, I, Q, x, I, s->d_keys, Q, s->d_key);
    if (s->dx) row_product(rows, nullptr, I, Q, s->d_keys, Q, panels.key[0], true, s->dx + t * B * I, I);
}

template <typename R> INLINE void rim_backward(const RIMSequence<R>* s) {
    const idx T = s->T, B = s->B, N = s->N, D = s->D, G = s->G, step = B * D, U = s->value_size, slots = s->chunk * B;
    RIMPanels<R> panels = rim_panels(s, true);
    const std::unique_ptr<idx[]> lists(new idx[N * B + slots]);
    idx *active = lists.get(), *active_chunk = active + N * B, counts[MAX_UNITS];
    units_last_backward<R>(s);
    for (idx t = T - 1; t >= 0; --t) {
        const idx at = t * N * B, in_chunk = t % s->chunk;
        const R *mask = s->mask + at, *share = s->share + at, *scale = s->read_scale ? s->read_scale + at : nullptr;
        R *d_scores = s->d_scores + in_chunk * N * B, *d_values = s->d_values + in_chunk * B * U;
        units_backward(s, panels.units, active, counts, t, s->dy + t * s->y_step);
        std::memset(d_values, 0, B * U * sizeof(R));
        for (idx n = 0; n < N; ++n) {
            row_product(counts[n], active + n * B, U, G, s->d_gates + (n * slots + in_chunk * B) * G, G, panels.weight_input[n],
                        false, s->d_input, U);
            read_share_backward(B, U, (const R*)s->d_input, (const R*)s->values + t * B * U, share + n * B,
                                scale ? scale + n * B : nullptr, mask + n * B, d_values, d_scores + n * B);
        }
        if (s->attends) {
            scores_backward(N, B, s->over_units, share, d_scores);
            for (idx n = 0; n < N; ++n)
                keys_backward(B, D, (const R*)d_scores + n * B, (const R*)s->unit_keys + (n * T + t) * step, s->dh + n * step);
        }
        if (in_chunk == 0) {
            units_chunk_backward(s, panels.units, active_chunk, t);
            rim_chunk_backward(s, t, panels, active_chunk);
        }
        if (s->starts) {
            reset_backward(N, B, D, s->starts + t * B, s->dh_start, s->dh);
            reset_backward(N, B, D, s->starts + t * B, s->dc_start, s->dc);
        }
    }
    units_first_backward(s, panels.units);
}
