// What RIM and a layer of BRIMs have in common once it is known who is active and what the input adds to the gates: the
// dynamics of units, what they tell each other, and their new states. Part of `loops.h`. S is the structure of either.

template <typename R> struct UnitsPanels {
    Panels<R> weight_hidden, weight_qkv, project, weight_qkv_again;  // the last is as in the forward pass, for the backward
    std::vector<R> d_joined;
};

// Width of a value as units read it, and of a unit's queries, keys and values.
template <typename S> idx value_width(const S* s) { return s->is_joined ? s->P : s->dv; }
template <typename S> idx qkv_width(const S* s) { return s->H * (2 * s->dk + value_width(s)); }

// The matrix b [k, n] of each of N units, or its transpose.
template <typename R>
Panels<R> panels_of(bool transposed, idx N, idx k, idx n, const R* b, PackedMemory<R>& packed, R factor = R(1)) {
    return transposed ? Panels<R>(N, n, k, b, true, factor, &packed) : Panels<R>(N, k, n, b, false, factor, &packed);
}

// The matrices as the forward pass needs them, or as the backward pass does.
template <typename R, typename S> UnitsPanels<R> units_panels(const S* s, bool back, PackedMemory<R>& packed) {
    const idx N = s->N, D = s->D, F = qkv_width(s);
    const bool is_filled = packed.next && packed.filled;
    std::vector<R> joined(s->is_joined && !is_filled ? N * D * F : 0), d_joined(back ? joined.size() : 0);
    if (!joined.empty()) join(N, D, s->P, s->H, s->dk, s->dv, s->query_key_value, s->project, joined.data());
    const R* weight_qkv = s->is_joined ? (const R*)joined.data() : s->query_key_value;
    return {panels_of(back, N, D, s->G, s->weight_hidden, packed),
            panels_of(back, s->P ? N : idx(0), D, F, weight_qkv, packed),
            panels_of(!back, idx(s->P && !s->is_joined), s->P, s->H * s->dv, s->project, packed),
            panels_of(false, back && s->P && !s->keeps_messages ? N : idx(0), D, F, weight_qkv, packed),
            std::move(d_joined)};
}

// One step. `gates` hold what the input adds; y gets the new h, row by row.
template <typename R, typename S>
NOT_INLINE void units_forward(const S* s, const UnitsPanels<R>& panels, idx* active, idx t, R* y) {
    const idx N = s->N, B = s->B, D = s->D, G = s->G, P = s->P, step = B * D, state = (s->T + 1) * step;
    const idx kept = s->keep ? s->T : 1, slot = s->keep ? t : 0, at = slot * N * B, F = qkv_width(s), V = s->H * value_width(s);
    R *h = s->h + t * step, *c = s->c + t * step, *gates = s->gates + at * G, *h_new = s->h_new + slot * step;
    R *h_read = s->h_read + slot * step, *output = s->output + at * P;
    R *qkv = s->qkv + (s->keeps_messages ? at : 0) * F, *received = s->received + (s->keeps_messages ? at : 0) * V;
    const R* mask = s->mask + at;
    if (s->bias_hidden) {
        for (idx n = 0; n < N; ++n) {
            R* hidden = s->hidden + n * B * G;
            for (idx b = 0; b < B; ++b) std::memcpy(hidden + b * G, s->bias_hidden + n * G, G * sizeof(R));
            row_product(B, nullptr, G, D, h + n * state, D, panels.weight_hidden[n], true, hidden, G);
            std::memcpy(c + step + n * state, c + n * state, step * sizeof(R));
        }
        gru(N, B, D, gates, (const R*)s->hidden, (const R*)h, state, s->tanh_c + at * D, h_new, kept * step);
    } else {
        for (idx n = 0; n < N; ++n)
            row_product(B, nullptr, G, D, h + n * state, D, panels.weight_hidden[n], true, gates + n * B * G, G);
        lstm(N, B, D, gates, (const R*)c, state, mask, s->tanh_c + at * D, h_new, kept * step, c + step, state);
    }
    if (P) {
        if (s->h_read != s->h_new) read_previous(N, B, D, (const R*)h_new, (const R*)h, state, mask, h_read, kept * step);
        for (idx n = 0; n < N; ++n)
            row_product(B, nullptr, F, D, h_read + n * kept * step, D, panels.weight_qkv[n], false, qkv + n * B * F, F);
        communicate(N, B, s->H, s->dk, value_width(s), s->num_read, idx(0), (const R*)qkv,
                    s->attention + slot * B * s->H * N * N, received);
        idx count;
        list_active(idx(1), N * B, mask, active, &count);
        if (s->is_joined) {
            sum_heads(count, (const idx*)active, s->H, P, (const R*)received, s->project_bias, output);
        } else {
            for (idx i = 0; i < count; ++i) std::memcpy(output + active[i] * P, s->project_bias, P * sizeof(R));
            row_product(count, active, P, V, received, V, panels.project[0], true, output, P);
        }
    }
    update(N, B, D, P, output, s->message_scale ? s->message_scale + t * N * step : nullptr, (const R*)h_new, kept * step,
           (const R*)h, state, mask, h + step, state, y);
}

// The same step back: `dh` and `dc` become the gradients of the states before it, but for what comes through the input,
// and `d_gates` those of what the input adds. `counts` gets how many rows of each unit are active, `active` which.
template <typename R, typename S>
NOT_INLINE void units_backward(const S* s, const UnitsPanels<R>& panels, idx* active, idx* counts, idx t, const R* dy) {
    const idx N = s->N, B = s->B, D = s->D, G = s->G, P = s->P, step = B * D, state = (s->T + 1) * step, at = t * N * B;
    const idx slots = s->chunk * B, in_chunk = t % s->chunk, F = qkv_width(s), V = s->H * value_width(s);
    const R *mask = s->mask + at, *h = s->h + t * step;
    R *d_qkv = s->d_qkv + in_chunk * B * F, *d_gates = s->d_gates + in_chunk * B * G, *d_output = s->d_output;
    update_backward(N, B, D, P, dy, s->dh, mask, (const R*)s->output + at * P,
                    s->message_scale ? s->message_scale + at * D : nullptr, s->dh_new, d_output);
    if (P) {
        const R* attention = s->attention + t * B * s->H * N * N;
        R *qkv = s->qkv + (s->keeps_messages ? at : 0) * F, *received = s->received + (s->keeps_messages ? at : 0) * V;
        for (idx n = 0; !s->keeps_messages && n < N; ++n)
            row_product(B, nullptr, F, D, s->h_read + (n * s->T + t) * step, D, panels.weight_qkv_again[n], false,
                        qkv + n * B * F, F);
        idx count;
        list_active(idx(1), N * B, mask, active, &count);
        std::memset(s->d_received, 0, N * B * V * sizeof(R));
        if (s->is_joined) {
            sum_heads_backward(count, (const idx*)active, s->H, P, (const R*)d_output, s->d_received);
        } else {
            row_product(count, active, V, P, d_output, P, panels.project[0], false, s->d_received, V);
            if (!s->keeps_messages) read_others(N, B, s->H, s->dk, value_width(s), (const R*)qkv, attention, received);
            add_gradient(count, active, P, V, d_output, P, received, V, s->d_project);
        }
        add_rows(count, active, P, (const R*)d_output, s->d_project_bias);
        communicate_backward(N, B, s->H, s->dk, value_width(s), (const R*)qkv, attention,
                             (const R*)s->d_received, d_qkv, slots * F, mask);
    }
    list_active(N, B, mask, active, counts);
    const bool all = s->h_read != s->h_new;  // then what is read of inactive units is their past
    for (idx n = 0; P && n < N; ++n)
        row_product(all ? B : counts[n], all ? nullptr : active + n * B, D, F, d_qkv + n * slots * F, F, panels.weight_qkv[n],
                    false, s->d_h_read + n * step, D);
    if (P && all) read_previous_backward(N, B, D, (const R*)s->d_h_read, mask, s->dh);
    const R* d_hidden = d_gates;
    if (s->bias_hidden) {
        d_hidden = s->d_hidden + in_chunk * B * G;
        gru_backward(N, B, D, (const R*)s->dh_new, (const R*)s->d_h_read, mask, (const R*)s->gates + at * G,
                     (const R*)s->tanh_c + at * D, h, state, s->dh, d_gates, s->d_hidden + in_chunk * B * G, slots * G);
    } else {
        lstm_backward(N, B, D, (const R*)s->dh_new, (const R*)s->d_h_read, mask, (const R*)s->gates + at * G,
                      (const R*)s->tanh_c + at * D, (const R*)s->c + t * step, state, s->dc, d_gates, slots * G);
    }
    for (idx n = 0; n < N; ++n)
        row_product(counts[n], active + n * B, D, G, d_hidden + n * slots * G, G, panels.weight_hidden[n], true,
                    s->dh + n * step, D);
}

// Gradients of their weights, of the steps of one chunk from `t` on.
template <typename R, typename S>
NOT_INLINE void units_chunk_backward(const S* s, UnitsPanels<R>& panels, idx* active, idx t) {
    const idx T = s->T, B = s->B, N = s->N, D = s->D, G = s->G, F = qkv_width(s), steps = T - t < s->chunk ? T - t : s->chunk;
    const R* d_hidden = s->bias_hidden ? s->d_hidden : s->d_gates;
    R* d_weight_qkv = s->is_joined ? panels.d_joined.data() : s->d_query_key_value;
    for (idx n = 0; n < N; ++n) {
        const idx count = list_active_of(n, N, steps, B, (const R*)s->mask + t * N * B, active), in_chunk = n * s->chunk * B;
        const R* h = s->h + (n * (T + 1) + t) * B * D;
        add_rows(count, active, G, (const R*)s->d_gates + in_chunk * G, s->d_bias + n * G);
        if (s->bias_hidden) add_rows(count, active, G, d_hidden + in_chunk * G, s->d_bias_hidden + n * G);
        add_gradient(count, active, D, G, h, D, d_hidden + in_chunk * G, G, s->d_weight_hidden + n * D * G);
        if (s->P)
            add_gradient(steps * B, nullptr, D, F, s->h_read + (n * T + t) * B * D, D, s->d_qkv + in_chunk * F, F,
                         d_weight_qkv + n * D * F);
    }
}

// What the backward pass begins and ends with.
template <typename R, typename S> INLINE void units_last_backward(const S* s) {
    const idx N = s->N, B = s->B, D = s->D;
    units_first(N, B, D, s->dh_last, s->dh, B * D);
    units_first(N, B, D, s->dc_last, s->dc, B * D);
    std::memset(s->d_h_read, 0, N * B * D * sizeof(R));
}
template <typename R, typename S> INLINE void units_first_backward(const S* s, const UnitsPanels<R>& panels) {
    const idx N = s->N, B = s->B, D = s->D;
    rows_first(N, B, D, (const R*)s->dh, B * D, s->dh_first);
    rows_first(N, B, D, (const R*)s->dc, B * D, s->dc_first);
    if (s->is_joined)
        join_backward(N, D, s->P, s->H, s->dk, s->dv, s->query_key_value, s->project, panels.d_joined.data(), s->d_query_key_value,
                      s->d_project);
}
