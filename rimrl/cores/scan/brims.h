// The loop over time and layers of BRIMs, and of a RIM that reads several elements or with several heads, which is one
// layer. Part of `loops.h`.

template <typename R> struct BRIMsPanels {
    Panels<R> query, below_key, below_value, above_key, above_value, weight_input;
    UnitsPanels<R> units;
};

// The matrices of a layer as the forward pass needs them, or as the backward pass does.
template <typename R> BRIMsPanels<R> brims_layer_panels(const BRIMsLayer<R>* s, bool back) {
    const idx N = s->N, D = s->D, W = N * D, Q = s->heads * s->key_size, U = s->heads * s->value_size;
    const idx below = s->below != 0, above = s->above != 0;
    PackedMemory<R> packed = {back ? nullptr : s->packed, s->is_packed != 0};
    return {panels_of(back, N, D, Q, s->query, packed),
            panels_of(back, below, W, Q, s->below_key, packed),
            panels_of(back, below, W, U, s->below_value, packed),
            panels_of(back, above, W, Q, s->above_key, packed),
            panels_of(back, above, W, U, s->above_value, packed),
            panels_of(back, N, U, s->G, s->weight_input, packed),
            units_panels(s, back, packed)};
}

// What a layer of BRIMs starts a step from; the rows of its state are side by side what other layers read.
template <typename R> INLINE void brims_layer_start(const BRIMsLayer<R>* s, idx t) {
    const idx T = s->T, B = s->B, N = s->N, D = s->D, step = B * D, state = (T + 1) * step;
    R *h = s->h + t * step, *c = s->c + t * step, *rows = s->rows + t * N * step;
    if (t == 0) {
        std::memcpy(rows, s->h_first, N * step * sizeof(R));
        units_first(N, B, D, s->h_first, h, state);
        units_first(N, B, D, s->c_first, c, state);
    }
    if (s->starts) {
        reset(N, B, D, s->starts + t * B, s->h_start, h, state);
        reset(N, B, D, s->starts + t * B, s->c_start, c, state);
        reset(idx(1), B, N * D, s->starts + t * B, s->h_start, rows, idx(0));
    }
}

// Keys and values of all that a layer reads in a step. Where that is the input alone, they lie there.
template <typename R> INLINE const R* brims_keys(const BRIMsLayer<R>* s, idx t) {
    return (s->below || s->above ? s->keys : s->input_keys) + t * s->B * s->heads * s->key_size;
}
template <typename R> INLINE const R* brims_values(const BRIMsLayer<R>* s, idx t) {
    return (s->below || s->above ? s->values : s->input_values) + t * s->B * s->heads * s->value_size;
}

template <typename R> INLINE void brims_layer_forward(const BRIMsLayer<R>* s, const BRIMsPanels<R>& panels, idx* active, idx t) {
    const idx T = s->T, B = s->B, N = s->N, D = s->D, G = s->G, step = B * D, W = N * D, state = (T + 1) * step;
    const idx Q = s->heads * s->key_size, U = s->heads * s->value_size, slot = s->keep ? t : 0, at = slot * N * B;
    const idx kept = s->keep ? T : 1;
    R *h = s->h + t * step, *gates = s->gates + at * G, *read = s->read + slot * B * U;
    R *queries = s->queries + at * Q, *layer_output = s->outputs + slot * B * W;
    const bool further = s->below || s->above;
    R *keys = s->keys + (further ? t * B * Q : 0), *values = s->values + (further ? t * B * U : 0);
    const R *all_keys = brims_keys(s, t), *all_values = brims_values(s, t);
    idx M = s->M;
    for (idx m = 0; further && m < M; ++m) {
        std::memcpy(keys + m * T * B * Q, s->input_keys + (m * T + t) * B * Q, B * Q * sizeof(R));
        std::memcpy(values + m * T * B * U, s->input_values + (m * T + t) * B * U, B * U * sizeof(R));
    }
    if (s->below) {
        const R* seen = (s - s->below)->outputs + slot * B * W;
        row_product(B, nullptr, Q, W, seen, W, panels.below_key[0], false, keys + M * T * B * Q, Q);
        row_product(B, nullptr, U, W, seen, W, panels.below_value[0], false, values + M++ * T * B * U, U);
    }
    if (s->above) {
        const R* seen = (s + s->above)->rows + t * B * W;
        row_product(B, nullptr, Q, W, seen, W, panels.above_key[0], false, keys + M * T * B * Q, Q);
        row_product(B, nullptr, U, W, seen, W, panels.above_value[0], false, values + M++ * T * B * U, U);
    }
    for (idx n = 0; n < N; ++n)
        row_product(B, nullptr, Q, D, h + n * state, D, panels.query[n], false, queries + n * B * Q, Q);
    R* weights = s->weights + at * s->heads * (1 + M);
    attend_to_elements(N, B, s->heads, s->key_size, M, s->over_units, (const R*)queries, all_keys, T * B * Q, weights,
                       s->priority + at);
    read_elements(N, B, s->heads, s->value_size, M, all_values, T * B * U, (const R*)weights,
                  s->read_scale ? s->read_scale + t * N * B * s->heads * M : nullptr, read, kept * B * U);
    choose(N, B, s->K, (const R*)s->priority + at, s->mask + at);
    for (idx n = 0; n < N; ++n) {
        R* g = gates + n * B * G;
        for (idx b = 0; b < B; ++b) std::memcpy(g + b * G, s->bias + n * G, G * sizeof(R));
        row_product(B, nullptr, G, U, read + n * kept * B * U, U, panels.weight_input[n], true, g, G);
    }
    units_forward(s, panels.units, active, t, layer_output);
    std::memcpy(s->rows + (t + 1) * B * W, layer_output, B * W * sizeof(R));
    if (s->y) std::memcpy(s->y + t * s->y_step, layer_output, B * W * sizeof(R));
    if (t == T - 1) {
        std::memcpy(s->h_last, layer_output, B * W * sizeof(R));
        rows_first(N, B, D, (const R*)s->c + T * step, state, s->c_last);
    }
}

// `scores` is scratch.
template <typename R>
INLINE void brims_layer_backward(const BRIMsLayer<R>* s, const BRIMsPanels<R>& panels, idx* active, R* scores, idx t) {
    const idx T = s->T, B = s->B, N = s->N, D = s->D, G = s->G, step = B * D, W = N * D;
    const idx Q = s->heads * s->key_size, U = s->heads * s->value_size, at = t * N * B;
    const idx M = s->M + (s->below ? 1 : 0) + (s->above ? 1 : 0), in_chunk = t % s->chunk, slots = s->chunk * B;
    const R *mask = s->mask + at, *weights = s->weights + at * s->heads * (1 + M);
    R *d_queries = s->d_queries + in_chunk * B * Q, *d_keys = s->d_keys + t * B * Q, *d_values = s->d_values + t * B * U;
    idx counts[MAX_UNITS];
    if (s->dy) add_to(B * W, s->dy + t * s->y_step, s->d_rows);
    units_backward(s, panels.units, active, counts, t, (const R*)s->d_rows);
    std::memset(s->d_rows, 0, B * W * sizeof(R));
    for (idx n = 0; n < N; ++n)
        row_product(counts[n], active + n * B, U, G, s->d_gates + (n * slots + in_chunk * B) * G, G, panels.weight_input[n],
                    false, s->d_read + n * B * U, U);
    read_elements_backward(N, B, s->heads, s->key_size, s->value_size, M, s->over_units, (const R*)s->queries + at * Q,
                           brims_keys(s, t), T * B * Q, brims_values(s, t), T * B * U, weights,
                           s->read_scale ? s->read_scale + at * s->heads * M : nullptr, mask, (const R*)s->d_read,
                           d_queries, slots * Q, d_keys, d_values, scores);
    // Where units share the elements out, those that lose have a gradient as well.
    for (idx n = 0; n < N; ++n)
        row_product(s->over_units ? B : counts[n], s->over_units ? nullptr : active + n * B, D, Q, d_queries + n * slots * Q, Q,
                    panels.query[n], true, s->dh + n * step, D);
    idx m = s->M;
    if (s->below) {
        R* d_seen = (s - s->below)->d_rows;
        row_product(B, nullptr, W, Q, d_keys + m * T * B * Q, Q, panels.below_key[0], true, d_seen, W);
        row_product(B, nullptr, W, U, d_values + m++ * T * B * U, U, panels.below_value[0], true, d_seen, W);
    }
    if (s->above) {
        R* d_seen = (s + s->above)->d_rows;
        row_product(B, nullptr, W, Q, d_keys + m * T * B * Q, Q, panels.above_key[0], true, d_seen, W);
        row_product(B, nullptr, W, U, d_values + m * T * B * U, U, panels.above_value[0], true, d_seen, W);
    }
}

// Gradients of a layer's weights, of the steps of one chunk from `t` on, as far as they can wait for all of them.
template <typename R> INLINE void brims_chunk_backward(const BRIMsLayer<R>* s, BRIMsPanels<R>& panels, idx* active, idx t) {
    const idx T = s->T, B = s->B, N = s->N, D = s->D, G = s->G, W = N * D, steps = T - t < s->chunk ? T - t : s->chunk;
    const idx Q = s->heads * s->key_size, U = s->heads * s->value_size, rows = steps * B;
    units_chunk_backward(s, panels.units, active, t);
    for (idx n = 0; n < N; ++n) {
        const idx count = list_active_of(n, N, steps, B, (const R*)s->mask + t * N * B, active);
        const idx in_chunk = n * s->chunk * B;
        const R* h = s->h + (n * (T + 1) + t) * B * D;
        add_gradient(count, active, U, G, s->read + (n * T + t) * B * U, U, s->d_gates + in_chunk * G, G,
                     s->d_weight_input + n * U * G);
        add_gradient(s->over_units ? rows : count, s->over_units ? nullptr : active, D, Q, h, D, s->d_queries + in_chunk * Q, Q,
                     s->d_query + n * D * Q);
    }
    idx m = s->M;
    if (s->below) {
        const R* seen = (s - s->below)->outputs + t * B * W;
        add_gradient(rows, nullptr, W, Q, seen, W, s->d_keys + (m * T + t) * B * Q, Q, s->d_below_key);
        add_gradient(rows, nullptr, W, U, seen, W, s->d_values + (m++ * T + t) * B * U, U, s->d_below_value);
    }
    if (s->above) {
        const R* seen = (s + s->above)->rows + t * B * W;
        add_gradient(rows, nullptr, W, Q, seen, W, s->d_keys + (m * T + t) * B * Q, Q, s->d_above_key);
        add_gradient(rows, nullptr, W, U, seen, W, s->d_values + (m * T + t) * B * U, U, s->d_above_value);
    }
}

template <typename R> INLINE void brims_layer_last_backward(const BRIMsLayer<R>* s) {
    units_last_backward<R>(s);
    std::memset(s->d_rows, 0, s->B * s->N * s->D * sizeof(R));
}

template <typename R> INLINE void brims_layer_first_backward(const BRIMsLayer<R>* s, const BRIMsPanels<R>& panels) {
    units_first_backward(s, panels.units);
    add_to(s->B * s->N * s->D, (const R*)s->d_rows, s->dh_first);
}

template <typename R> INLINE void brims_layer_start_backward(const BRIMsLayer<R>* s, idx t) {
    if (!s->starts) return;
    const uint8_t* starts = s->starts + t * s->B;
    reset_backward(s->N, s->B, s->D, starts, s->dh_start, s->dh);
    reset_backward(s->N, s->B, s->D, starts, s->dc_start, s->dc);
    reset_backward(idx(1), s->B, s->N * s->D, starts, s->dh_start, s->d_rows);
}

template <typename R> std::vector<BRIMsPanels<R>> brims_panels(idx L, const BRIMsLayer<R>* layers, bool back) {
    std::vector<BRIMsPanels<R>> panels;
    for (idx l = 0; l < L; ++l) panels.push_back(brims_layer_panels(layers + l, back));
    return panels;
}

// Room for the active rows of any layer, in any chunk.
template <typename R> std::vector<idx> brims_rows(idx L, const BRIMsLayer<R>* layers) {
    idx units = layers->chunk;
    for (idx l = 0; l < L; ++l) units = units < layers[l].N ? layers[l].N : units;
    return std::vector<idx>(units * layers->B);
}

// Room for the gradients of scores of one row, in any layer.
template <typename R> std::vector<R> brims_scratch(idx L, const BRIMsLayer<R>* layers) {
    idx scores = 0;
    for (idx l = 0; l < L; ++l) {
        const idx own = layers[l].N * layers[l].heads * (layers[l].M + 2);
        scores = scores < own ? own : scores;
    }
    return std::vector<R>(scores);
}

template <typename R> INLINE void brims_forward(const BRIMsLayer<R>* layers) {
    const idx L = layers->L;
    const auto panels = brims_panels(L, layers, false);
    auto rows = brims_rows(L, layers);
    for (idx t = 0; t < layers->T; ++t) {
        for (idx l = 0; l < L; ++l) brims_layer_start(layers + l, t);
        for (idx l = 0; l < L; ++l) brims_layer_forward(layers + l, panels[l], rows.data(), t);
    }
}

template <typename R> INLINE void brims_backward(const BRIMsLayer<R>* layers) {
    const idx L = layers->L;
    auto panels = brims_panels(L, layers, true);
    auto rows = brims_rows(L, layers);
    std::vector<R> scratch = brims_scratch(L, layers);
    for (idx l = 0; l < L; ++l) brims_layer_last_backward(layers + l);
    for (idx t = layers->T - 1; t >= 0; --t) {
        for (idx l = L - 1; l >= 0; --l) brims_layer_backward(layers + l, panels[l], rows.data(), scratch.data(), t);
        if (t % layers->chunk == 0)
            for (idx l = 0; l < L; ++l) brims_chunk_backward(layers + l, panels[l], rows.data(), t);
        for (idx l = 0; l < L; ++l) brims_layer_start_backward(layers + l, t);
    }
    for (idx l = 0; l < L; ++l) brims_layer_first_backward(layers + l, panels[l]);
}
